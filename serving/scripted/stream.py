"""The pacing of one streamed answer: a timer that writes one delta per unfinished choice and step.

One timer callback per step, no task switch: 600 streams fit on a fraction of a core. Steps lie on a fixed grid, so a
late one does not shift those after it.
"""

import asyncio
from collections.abc import Sequence
from typing import Literal

from serving.scripted.generate import ChoicePlan
from serving.scripted.record import Running
from serving.scripted.render import Renderer
from serving.scripted.scenario import BadJson, Drop, ErrorEvent, Fault, Hang, Scenario
from serving.scripted.wire import UNREAD_MAX, frame

Ending = Literal["finished", "fault", "gone"]
UNREAD_RETRY_S = 0.01


def fault_after_tokens(fault: Fault | None) -> int | None:
    """After how many tokens the generation stops for a fault; None when none does that."""
    if isinstance(fault, ErrorEvent) or (isinstance(fault, Hang | Drop) and fault.where == "stream"):
        return fault.after_tokens
    return None


class Stream:
    """Plays ``plans`` into ``transport``; ``running`` always holds the tokens generated so far.

    When it has finished, ``unsent`` holds its last events: the caller notes the end in the record, then sends them.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        renderer: Renderer,
        plans: Sequence[ChoicePlan],
        running: Running,
        scenario: Scenario,
        fault: Fault | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport, self._renderer, self._plans, self._running = transport, renderer, plans, running
        self._rate = scenario.tokens_per_s
        self._stop_after = fault_after_tokens(fault)
        self._broken = fault.at_chunk if isinstance(fault, BadJson) else None
        self._position = [0] * len(plans)
        self._generated = [0] * len(plans)
        self._reasoning = [0] * len(plans)
        self._chunks = 0
        self.unsent: list[bytes] = []
        self._timer: asyncio.Handle | None = None
        self._ended: asyncio.Future[Ending] = self._loop.create_future()

    async def play(self, first_token_s: float) -> Ending:
        """Generates until the end, a fault or the client's departure. Cancelling it stops at once."""
        self._next = self._loop.time() + first_token_s
        self._timer = self._loop.call_at(self._next, self._first)
        try:
            return await self._ended
        finally:
            self._timer.cancel()

    def _first(self) -> None:
        self.write(self._renderer.opening())
        self._step()

    def _step(self) -> None:
        """Generates one delta for each unfinished choice, then sets the next timer."""
        if self._ended.done():
            return
        if self._transport.is_closing():
            self._ended.set_result("gone")
        elif self._transport.get_write_buffer_size() > UNREAD_MAX:
            self._timer = self._loop.call_later(UNREAD_RETRY_S, self._step)
        else:
            self._generate()

    def _generate(self) -> None:
        events: list[bytes] = []
        most = 0
        for index, plan in enumerate(self._plans):
            if self._stop_after is not None and self._running.completion_tokens >= self._stop_after:
                self.write(events)
                self._ended.set_result("fault")
                return
            if self._position[index] < len(plan.deltas):
                tokens, event = self._next_delta(index, plan)
                most = max(most, tokens)
                events.append(event)
        if all(at == len(plan.deltas) for at, plan in zip(self._position, self._plans, strict=True)):
            self.unsent = events
            self._ended.set_result("finished")
            return
        self.write(events)
        self._set_timer(most)

    def _next_delta(self, index: int, plan: ChoicePlan) -> tuple[int, bytes]:
        position = self._position[index]
        delta = plan.deltas[position]
        tokens = len(delta.tokens)
        self._position[index] = position + 1
        self._generated[index] += tokens
        self._running.completion_tokens += tokens
        if delta.kind == "reasoning":
            self._reasoning[index] += tokens
            self._running.reasoning_tokens += tokens
        if position + 1 == len(plan.deltas):
            return tokens, self._renderer.last(index, delta, plan)
        return tokens, self._renderer.delta(index, delta, self._generated[index], self._reasoning[index])

    def _set_timer(self, tokens: int) -> None:
        if self._rate:
            self._next += tokens / self._rate
            self._timer = self._loop.call_at(self._next, self._step)
        else:
            self._timer = self._loop.call_soon(self._step)

    def write(self, events: Sequence[bytes]) -> None:
        """Sends events in one write; empty ones are left out."""
        sent = [self._checked(event) for event in events if event]
        if sent:
            self._transport.write(b"".join([frame(event) for event in sent]))

    def _checked(self, event: bytes) -> bytes:
        """The event as it is, or cut in half when it is the one that the scenario breaks."""
        self._chunks += 1
        return event[: len(event) // 2] + b"\n\n" if self._chunks == self._broken else event
