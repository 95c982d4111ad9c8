"""A client of server-sent events on raw sockets: when each event arrived, with next to no work of its own."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

# The same for all targets, so that engine, relay and gateway move the same events: the gateway asks the engine for
# usage in every chunk whatever its client wants.
_OPTIONS = {"include_usage": True, "continuous_usage_stats": True}
_EVENT = b"data: "
_DONE = b"data: [DONE]"
_END = b"0\r\n\r\n"
_TAIL_BYTES = 16


@dataclass(slots=True)
class Heard:
    """One stream: when it was asked for, when bytes with events came (`time.perf_counter`), how many events."""

    sent: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    events: int = 0
    ended: float = 0.0
    failure: str = ""

    @property
    def ttft_ms(self) -> float:
        """Milliseconds to the first event."""
        return (self.arrivals[0] - self.sent) * 1e3

    @property
    def total_ms(self) -> float:
        """Milliseconds to the end."""
        return (self.ended - self.sent) * 1e3

    def gaps_ms(self) -> list[float]:
        """Milliseconds between arrivals; the last is left out, since the engine sends the end without pacing."""
        return [(b - a) * 1e3 for a, b in zip(self.arrivals, self.arrivals[1:-1], strict=False)]


def stream_request(url: str, key: str, model: str, max_tokens: int, *, passed_options: bool) -> bytes:
    """The bytes of one request. `passed_options` adds vLLM's own stream option, which the gateway's clients may not."""
    parts = urlsplit(url)
    options = _OPTIONS if passed_options else {"include_usage": True}
    body = json.dumps(
        {
            "model": model, "max_tokens": max_tokens, "stream": True, "stream_options": options,
            "messages": [{"role": "user", "content": "Tell me about the checkpoint on the tea road."}],
        }
    ).encode()  # fmt: skip
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class StreamConnection(asyncio.Protocol):
    """One keep-alive connection; one stream after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._heard = Heard()
        self._tail = b""
        self._begun = self._done = False
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def stream(self, request: bytes, limit_s: float) -> Heard:
        """Ask and listen to the end, `limit_s` seconds at most. A failure is told in the result, never raised."""
        assert self._transport is not None
        heard = self._heard = Heard(sent=time.perf_counter())
        self._tail, self._begun, self._done = b"", False, False
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            await asyncio.wait_for(self._waiter, limit_s)
        except TimeoutError:
            heard.failure = f"no end after {limit_s:g} s"
            self._transport.abort()
        heard.ended = time.perf_counter()
        return heard

    def data_received(self, data: bytes) -> None:
        heard = self._heard
        if not self._begun and not data.startswith(b"HTTP/1.1 200"):
            heard.failure = data[:300].decode("latin-1")
            self.finish()
            return
        self._begun = True
        window = self._tail + data  # what is cut by a packet border is found with the next packet
        events = window.count(_EVENT) - self._tail.count(_EVENT)
        if events:
            heard.arrivals.append(time.perf_counter())
            heard.events += events
        if b'data: {"error"' in window:
            heard.failure = window[-300:].decode("latin-1")
        self._done = self._done or _DONE in window
        if window.endswith(_END):
            if not self._done:
                heard.failure = heard.failure or "ended without [DONE]"
            self.finish()
        self._tail = window[-_TAIL_BYTES:]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._heard.failure = f"connection lost: {exc!r}"
        self.finish()

    def finish(self) -> None:
        """The stream is over."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def connect(url: str) -> StreamConnection:
    """A connection to the server of `url`."""
    parts = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(
        StreamConnection, parts.hostname or "", parts.port or 80
    )
    return connection


async def back_to_back(url: str, request: bytes, *, connections: int, seconds: float) -> list[Heard]:
    """Streams one after the other on each of `connections` connections for `seconds`."""
    until = time.perf_counter() + seconds

    async def one() -> list[Heard]:
        connection = await connect(url)
        heard = []
        while time.perf_counter() < until:
            heard.append(await connection.stream(request, 30.0))
            if heard[-1].failure:
                break
        connection.close()
        return heard

    return [heard for part in await asyncio.gather(*(one() for _ in range(connections))) for heard in part]


async def side_by_side(url: str, request: bytes, *, starts_s: Sequence[float], limit_s: float) -> list[Heard]:
    """One stream per entry of `starts_s`, begun so many seconds from now, each on a connection of its own."""

    async def one(start_s: float) -> Heard:
        await asyncio.sleep(start_s)
        try:
            connection = await connect(url)
        except OSError as error:
            return Heard(failure=repr(error))
        heard = await connection.stream(request, limit_s)
        connection.close()
        return heard

    return list(await asyncio.gather(*map(one, starts_s)))
