"""Scripts on Valkey, in batches: all calls of one moment travel in one pipeline, so a busy process makes few round
trips and needs one connection."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

VALKEY_S_MAX = 1.0
BATCH_CALLS_MAX = 128
RETRIES_MAX = 1  # on a new connection: one that Valkey has closed shows only when it is used


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script of this package and the name Valkey knows it by (its SHA-1, which is no security feature here)."""

    text: str
    sha: str

    @classmethod
    def load(cls, name: str) -> "Script":
        """The script in the file `name`."""
        text = resources.files("gateway.limits").joinpath(name).read_text(encoding="utf-8")
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class _Call:
    script: Script
    keys: Sequence[str]
    arguments: Sequence[str | int]
    result: "asyncio.Future[Any]"


class Scripts:
    """Runs scripts. Every script used here is idempotent, so a batch whose answer was lost may be sent again.

    `on_connect` is called with each new connection, before anything is sent on it but what it sends itself.
    """

    def __init__(self, url: str, on_connect: Callable[[Any], Awaitable[None]] | None = None) -> None:
        self.client: Any = Redis.from_url(
            url, socket_timeout=VALKEY_S_MAX, socket_connect_timeout=VALKEY_S_MAX, decode_responses=True,
            retry=Retry(NoBackoff(), RETRIES_MAX), redis_connect_func=on_connect,
        )  # fmt: skip
        self._waiting: list[_Call] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """The script's answer. Raises `RedisError` or `OSError` when Valkey is away."""
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(script, keys, arguments, result))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return await result

    async def close(self) -> None:
        """Wait for what is queued, then close the connection."""
        while self._task is not None:
            await asyncio.shield(self._task)
        await self.client.aclose()

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_CALLS_MAX], self._waiting[BATCH_CALLS_MAX:]
                try:
                    answers = await self._send(batch)
                except (RedisError, OSError) as error:
                    answers = [error] * len(batch)
                for call, answer in zip(batch, answers, strict=True):
                    _resolve(call.result, answer)
        finally:
            self._task = None

    async def _send(self, batch: list[_Call]) -> list[Any]:
        answers = await self._execute(batch)
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # a Valkey that was restarted has forgotten its scripts
            for text in {batch[number].script.text for number in unknown}:
                await self.client.script_load(text)
            again = await self._execute([batch[number] for number in unknown])
            for number, answer in zip(unknown, again, strict=True):
                answers[number] = answer
        return answers

    async def _execute(self, batch: list[_Call]) -> list[Any]:
        if len(batch) == 1:
            call = batch[0]
            try:
                return [await self.client.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments)]
            except NoScriptError as error:
                return [error]
        pipeline = self.client.pipeline(transaction=False)
        for call in batch:
            pipeline.evalsha(call.script.sha, len(call.keys), *call.keys, *call.arguments)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers


def _resolve(result: "asyncio.Future[Any]", answer: Any) -> None:
    if result.done():
        return
    if isinstance(answer, Exception):
        result.set_exception(answer)
    else:
        result.set_result(answer)
