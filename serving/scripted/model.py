"""One scripted model: its scenario, its generation slots and the plans of its answers."""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache

import msgspec

from serving.scripted.asks import Ask, BadRequestError, Tools
from serving.scripted.faults import FaultBook
from serving.scripted.generate import ChoicePlan, Delta, ToolCall, plan, ruled_deltas, stop_at, text_deltas, tool_deltas
from serving.scripted.minimal import UnsupportedSchemaError, minimal
from serving.scripted.scenario import Deltas, Scenario, ToolScript


class Slots:
    """At most ``limit`` choices generate at a time; further requests wait in the order they came.

    A request takes one slot per choice. One that alone exceeds the limit runs when nothing else does.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.busy = 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(not turn.cancelled() for _, turn in self._queue)

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        """Waits for ``count`` slots and holds them; cancelling while waiting leaves the queue."""
        if self._queue or not self._fits(count):
            await self._wait(count)
        else:
            self.busy += count
        try:
            yield
        finally:
            self.busy -= count
            self._admit()

    async def _wait(self, count: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.busy -= count  # admitted and cancelled in the same turn of the loop: give the slots back
            self._admit()
            raise

    def _fits(self, count: int) -> bool:
        return self.busy + count <= self._limit or self.busy == 0

    def _admit(self) -> None:
        # A cancelled turn stays in the queue until it comes to the front; it never takes a slot.
        while self._queue and (self._queue[0][1].cancelled() or self._fits(self._queue[0][0])):
            count, turn = self._queue.popleft()
            if not turn.cancelled():
                self.busy += count
                turn.set_result(None)


class Model:
    """A scenario at work."""

    def __init__(self, name: str, scenario: Scenario) -> None:
        self.name = name
        self.scenario = scenario
        self.slots = Slots(scenario.max_num_seqs)
        self.faults = FaultBook(scenario)
        self._texts = [text_deltas("content", text, scenario.split) for text in scenario.texts]
        reasoning = scenario.reasoning
        self._reasoning = text_deltas("reasoning", reasoning, scenario.split) if reasoning is not None else ()
        # The same few (text, length) pairs come again and again under load, and plans are immutable.
        self._spoken = lru_cache(maxsize=256)(self._plan_text)

    def plans(self, ask: Ask) -> list[ChoicePlan]:
        """One plan per choice, in the order of their indexes. Raises :class:`BadRequestError`."""
        return [self._choice(ask, prompt, i) for prompt in range(len(ask.prompt_tokens)) for i in range(ask.n)]

    def _choice(self, ask: Ask, prompt: int, index: int) -> ChoicePlan:
        limit = self._limit(ask, ask.prompt_tokens[prompt])
        made = self._made(ask, limit)
        if made is None:
            text = (prompt * ask.n + index) % len(self._texts)
            made = self._spoken(text, limit, ask.ignore_eos, ask.chat)
        return stop_at(made, ask.stops, include=ask.include_stop) if ask.stops else made

    def _limit(self, ask: Ask, prompt_tokens: int) -> int:
        room = self.scenario.max_model_len - prompt_tokens
        wanted = 1 if ask.max_tokens is None else ask.max_tokens
        if wanted > room:
            raise BadRequestError(
                f"This model's maximum context length is {self.scenario.max_model_len} tokens. However, you requested "
                f"{wanted} output tokens and your prompt contains {prompt_tokens} input tokens.",
                "max_tokens",
            )
        return room if ask.max_tokens is None else ask.max_tokens

    def _made(self, ask: Ask, limit: int) -> ChoicePlan | None:
        """A plan made for this request's tools or response format; None when the scenario's text is to be said."""
        try:
            calls = self._calls(ask.tools) if ask.tools else []
            if calls:
                finish = "stop" if ask.tools and ask.tools.forced else "tool_calls"
                deltas = self._reasoning + tool_deltas(calls, self.scenario.split)
                return plan(deltas, limit=limit, finish=finish, calls=tuple(call for call, _ in calls))
            answer = _structured(ask)
        except UnsupportedSchemaError as error:
            raise BadRequestError(f"The schema cannot be satisfied: {error}.", "response_format") from error
        if answer is None:
            return None
        reasoning = self._reasoning if ask.chat else ()
        return plan(reasoning + ruled_deltas("content", answer, self.scenario.split), limit=limit)

    def _plan_text(self, text: int, limit: int, ignore_eos: bool, chat: bool) -> ChoicePlan:
        deltas: tuple[Delta, ...] = (self._reasoning if chat else ()) + self._texts[text]
        repeat_to = limit if ignore_eos else self.scenario.repeat_to_tokens
        return plan(deltas, limit=limit, repeat_to=repeat_to)

    def _calls(self, tools: Tools) -> list[tuple[ToolCall, str | Deltas]]:
        scripts = self.scenario.tool_calls
        if tools.forced is not None:
            scripts = [script for script in scripts if script.name == tools.forced] or [ToolScript(tools.forced)]
        elif tools.required and not scripts:
            scripts = [ToolScript()]
        return [_call(script, tools) for script in (scripts if tools.parallel else scripts[:1])]


def _call(script: ToolScript, tools: Tools) -> tuple[ToolCall, str | Deltas]:
    name = next(iter(tools.schemas)) if script.name is None else script.name
    arguments = script.arguments
    if arguments is None:
        arguments = msgspec.json.encode(minimal(tools.schemas.get(name, {}))).decode()
    whole = "".join(arguments.deltas) if isinstance(arguments, Deltas) else arguments
    return ToolCall(f"chatcmpl-tool-{uuid.uuid4().hex[:16]}", name, whole), arguments


def _structured(ask: Ask) -> str | None:
    """The JSON text that a response format demands, or None when any text will do."""
    wanted = ask.response_format or {}
    kind = wanted.get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return '{"ok":true}'
    described = wanted.get("json_schema")
    if kind != "json_schema" or not isinstance(described, dict):
        raise BadRequestError(
            "When response_format type is 'json_schema', the 'json_schema' field must be provided.", "response_format"
        )
    return msgspec.json.encode(minimal(described.get("schema", {}))).decode()
