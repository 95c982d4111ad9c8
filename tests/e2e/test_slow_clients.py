"""Clients that dawdle are closed at the real deadlines, and nobody else waits for them.

All of them run at the same time, so the test takes as long as the longest deadline and not their sum.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.edge.http_protocol import HEADER_S_MAX, UNREAD_S_MAX
from gateway.edge.inbound import BODY_S_MAX, WRITE_S_MAX
from tests.e2e.conftest import ENDLESS_MODEL
from tests.e2e.raw import CHAT, Wire, chat, connected, request
from tests.e2e.stack import Stack
from tests.e2e.steady import latencies_ms
from tests.e2e.tenants import Tenant

SLACK_S = 4.0
DRIP_S = 0.25


async def _drip(wire: Wire, piece: bytes, seconds: float) -> None:
    """Send `piece` again and again, until the server closes or `seconds` are over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not wire.reader.at_eof():
        await wire.send(piece)
        await asyncio.sleep(DRIP_S)


async def _closed(wire: Wire, limit_s: float, drip: bytes) -> tuple[float, bytes]:
    """After how many seconds the server closed, and what it said before. Fails when it does not close."""
    began = time.monotonic()
    dripping = asyncio.create_task(_drip(wire, drip, limit_s + SLACK_S))
    received = b""
    try:
        async with asyncio.timeout(limit_s + SLACK_S):
            while part := await wire.reader.read(65_536):
                received += part
    except TimeoutError:
        raise AssertionError(f"the server still holds the connection after {limit_s + SLACK_S} s") from None
    except ConnectionError:
        received += b""  # reset instead of closed: gone all the same
    finally:
        dripping.cancel()
    return time.monotonic() - began, received


async def _headers_that_drip(up: Stack, tenant: Tenant) -> None:
    async with connected(up) as wire:
        await wire.send(f"POST {CHAT} HTTP/1.1\r\nhost: a\r\n".encode())
        seconds, said = await _closed(wire, HEADER_S_MAX, b"x-a: b\r\n")
    assert seconds >= HEADER_S_MAX - 1
    assert said.startswith(b"HTTP/1.1 408 ") and b"request_timeout" in said


async def _headers_that_drip_after_a_first_answer(up: Stack, tenant: Tenant) -> None:
    async with connected(up) as wire:
        await wire.send(request(tenant, chat(max_tokens=1)))
        assert (await wire.answer()).status == 200
        await wire.send(b"GET /v1/models HTTP/1.1\r\nx-a")
        seconds, said = await _closed(wire, HEADER_S_MAX, b"")
    assert seconds >= HEADER_S_MAX - 1
    assert said.startswith(b"HTTP/1.1 408 ")


async def _connection_that_says_nothing(up: Stack, tenant: Tenant) -> None:
    async with connected(up) as wire:
        seconds, said = await _closed(wire, HEADER_S_MAX, b"")
    assert seconds >= HEADER_S_MAX - 1 and said == b""


async def _endless_headers_as_fast_as_they_go(up: Stack, tenant: Tenant) -> None:
    async with connected(up) as wire:
        await wire.send(f"POST {CHAT} HTTP/1.1\r\nhost: a\r\n".encode())
        seconds, _ = await _closed(wire, 2.0, b"x-a: b\r\n" * 5_000)
    assert seconds < 2


async def _body_that_drips(up: Stack, tenant: Tenant) -> None:
    async with connected(up) as wire:
        await wire.send(request(tenant, b"{", content_length="100000"))
        seconds, said = await _closed(wire, BODY_S_MAX, b" ")
    assert seconds >= BODY_S_MAX - 1
    assert said.startswith(b"HTTP/1.1 408 ") and b"request_timeout" in said


async def _body_that_drips_after_the_refusal(up: Stack, tenant: Tenant) -> None:
    async with connected(up) as wire:
        await wire.send(request(tenant, b"{", content_length="100000", authorization="Bearer x"))
        seconds, said = await _closed(wire, UNREAD_S_MAX, b" ")
    assert said.startswith(b"HTTP/1.1 401 ")
    assert seconds <= UNREAD_S_MAX + SLACK_S


async def _trailers_that_drip(up: Stack, tenant: Tenant) -> None:
    async with connected(up) as wire:
        head = request(tenant, b"", content_length="", transfer_encoding="chunked")
        await wire.send(head + b"2\r\n{}\r\n0\r\n")
        seconds, said = await _closed(wire, BODY_S_MAX, b"x-a: b\r\n")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert seconds <= BODY_S_MAX + SLACK_S


async def _client_that_reads_nothing(up: Stack, tenant: Tenant) -> None:
    """The engine pauses, and after the write deadline the client counts as gone: settled, and no hold stays."""
    async with connected(up, receive_buffer=2_048) as wire:
        await wire.send(request(tenant, chat(ENDLESS_MODEL, stream=True, n=16, logprobs=True, top_logprobs=20)))
        _, headers = await wire.head()
        row = await up.row(headers["x-request-id"], within_s=WRITE_S_MAX + 10)
    assert row["outcome"] == "client_gone"
    record = await up.witness(ENDLESS_MODEL, f"{headers['x-request-id']}-1")
    assert record["state"] == "aborted"
    assert row["completion_tokens"] == record["completion_tokens"] > 0


DAWDLERS: list[Callable[[Stack, Tenant], Coroutine[Any, Any, None]]] = [
    _headers_that_drip,
    _headers_that_drip_after_a_first_answer,
    _connection_that_says_nothing,
    _endless_headers_as_fast_as_they_go,
    _body_that_drips,
    _body_that_drips_after_the_refusal,
    _trailers_that_drip,
    _client_that_reads_nothing,
]


@pytest.mark.timeout(120)
async def test_dawdlers_are_closed_at_their_deadlines_and_a_steady_caller_does_not_notice(
    up: Stack, tenant: Tenant
) -> None:
    before = await latencies_ms(up, tenant, 4)
    dawdling = [asyncio.create_task(dawdler(up, tenant)) for dawdler in DAWDLERS]
    holding = asyncio.create_task(_hold_connections(up, 200))
    during = await latencies_ms(up, tenant, 8)
    results = await asyncio.gather(*dawdling, return_exceptions=True)
    failed = {dawdler.__name__: result for dawdler, result in zip(DAWDLERS, results, strict=True) if result is not None}
    assert failed == {}
    assert await holding == 200
    print(f"steady caller: median {statistics.median(before):.1f} ms before, ", end="")
    print(f"{statistics.median(during):.1f} ms during ({len(during)} requests)")
    assert statistics.median(during) <= 2 * statistics.median(before)


async def _hold_connections(up: Stack, count: int) -> int:
    """How many of `count` connections with half a header block the server closes by itself."""

    async def one() -> bool:
        async with connected(up) as wire:
            await wire.send(b"GET /v1/models HTTP/1.1\r\nhost: ")
            return await wire.closed_within(HEADER_S_MAX + SLACK_S)

    return sum(await asyncio.gather(*(one() for _ in range(count))))
