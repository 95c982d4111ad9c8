"""Dispatch: send the call to the engine, try once more where nothing was delivered and nothing can have been."""

import asyncio
import re
from dataclasses import dataclass

import msgspec

from gateway.edge.exchange import Exchange
from gateway.edge.progress import Progress
from gateway.faults import Fault
from gateway.upstreams.client import Answer, Broken, Late, Rejected, Timeouts, Unreached, UpstreamClient

ATTEMPTS_MAX = 2


@dataclass(slots=True)
class Begun:
    """An answer whose first byte is here: a stream's first events, or the whole body."""

    answer: Answer
    events: list[bytes] | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Sends calls to upstreams."""

    client: UpstreamClient
    progress: Progress
    timeouts: Timeouts

    async def dispatch(self, exchange: Exchange, path: str) -> Begun:
        """The beginning of the engine's answer. Raises `Fault` with `upstream_failed`, `upstream_timeout`,
        `overloaded`, `rejected_by_model` or `context_length_exceeded`."""
        while True:
            exchange.attempt += 1
            self.progress.sent(exchange.request_id, exchange.attempt)
            try:
                return await self._attempt(exchange, path)
            except Unreached as error:
                if exchange.attempt == ATTEMPTS_MAX and error.late:
                    raise Fault("upstream_timeout", phase="connect") from error
                if exchange.attempt == ATTEMPTS_MAX:
                    raise Fault("upstream_failed", internal=str(error)) from error
            except Broken as error:
                raise Fault("upstream_failed", internal=str(error)) from error
            except Late as error:
                raise Fault("upstream_timeout", phase=error.phase) from error
            except Rejected as error:
                raise rejection(exchange, error) from error

    async def _attempt(self, exchange: Exchange, path: str) -> Begun:
        call, upstream = exchange.call, exchange.upstream
        assert call is not None and upstream is not None
        body = msgspec.json.encode({**call.body, "model": upstream.served_model})
        limit = self.timeouts.first_byte_s if call.stream else self.timeouts.total_s
        try:
            async with asyncio.timeout(limit):
                answer = await self.client.post(upstream.base_url + path, body, exchange.attempt_id)
                return await self._begin(answer, stream=call.stream)
        except TimeoutError:
            raise Late("first_byte" if call.stream else "total") from None

    async def _begin(self, answer: Answer, *, stream: bool) -> Begun:
        try:
            if not stream:
                body = await answer.body()
                answer.release()
                return Begun(answer, None, body)
            try:
                events = await answer.events()
            except Broken as error:
                raise Unreached(f"closed before the first byte: {error}") from error
            if events is None:
                raise Unreached("closed before the first byte")
            return Begun(answer, events, b"")
        except BaseException:
            answer.abort()
            raise


_CONTEXT_MARKS = ("maximum context length", "longer than the maximum model length")


def rejection(exchange: Exchange, error: Rejected) -> Fault:
    """What an engine's error status means for the caller. The engine's own words pass only for the caller's faults."""
    if error.status in (429, 503):
        return Fault("overloaded", retry_after_s=1, internal=str(error))
    if error.status not in (400, 413, 422):
        return Fault("upstream_failed", internal=str(error))
    detail = _message(error.body)
    assert exchange.upstream is not None
    if any(mark in detail for mark in _CONTEXT_MARKS):
        return Fault("context_length_exceeded", limit=exchange.upstream.profile.context_tokens)
    return Fault("rejected_by_model", detail=_presentable(detail), internal=str(error))


_INNARDS = re.compile(
    r"traceback|\bray\b|rayserve|\bpid\b|site-packages|\.py\b|0x[0-9a-f]{6,}|(^|\s)/[a-z]+/", re.IGNORECASE
)


def _presentable(detail: str) -> str:
    """The first line of what an engine said of the caller's own request; nothing of it when it shows the engine's
    innards (class names, paths, processes), which Ray wraps around some messages."""
    line = detail.strip().partition("\n")[0][:300]
    return "" if _INNARDS.search(detail) else line


def _message(body: bytes) -> str:
    try:
        answer = msgspec.json.decode(body)
        error = answer.get("error", answer)
        return str(error.get("message", "")) if isinstance(error, dict) else ""
    except (msgspec.DecodeError, AttributeError):
        return ""
