"""Bad input all at once: the gateway's memory stays where it was, and a steady caller hardly notices."""

import asyncio
import gzip
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

import pytest

from tests.e2e.raw import READ_S_MAX, connected, request
from tests.e2e.stack import Stack
from tests.e2e.steady import latencies_ms, percentile
from tests.e2e.tenants import Tenant, add_tenant

MB = 1024 * 1024
RSS_GROWTH_MAX = 64 * MB
SAMPLE_S = 0.01
WINDOWS, WINDOW_S, ATTACK_EVERY_S = 4, 2.5, 0.1
MEASUREMENTS_MAX, P99_RATIO_MAX = 3, 2.0

Attack = Callable[[], Awaitable[int]]


MESSAGE = b'{"role":"user","content":"hi"}'
START = b'{"model":"scripted-small","messages":['
NAMED = (
    b"not JSON",
    b'{"model":"scripted-small","model":"scripted-small"}',
    b'{"model":"scripted-small","messages":"hi"}',
    b'{"model":"unknown","messages":[' + MESSAGE + b"]}",
    START + MESSAGE + b'],"never":1}',
    START + b'{"role":"user","content":"\\ud800"}]}',
    START + b"[" * 30_000 + b"]" * 30_000 + b"]}",
    START + b",".join([MESSAGE] * 100_000) + b"]}",
    gzip.compress(b"{}"),
)
"""The kinds of bad input that the interface names; 20 MB come on top."""

CRAFTED = (
    START + b"[]," * 3_000_000 + b"[]]}",
    START + b'"ab",' * 1_800_000 + b'"ab"]}',
    START + b'{"role":"user","content":"' + b"a" * (9 * MB) + b'"}],"never":1}',
    b"[" * (9 * MB),
    START + MESSAGE + b'],"seed":' + b"9" * (9 * MB) + b"}",
    START + MESSAGE + b'],"user":"' + b"\\\\" * (4 * MB) + b"\\ud800" + b'"}',
)
"""Bodies within the limit, made to cost as much as they can."""


def _attacks(up: Stack, tenant: Tenant, bodies: Sequence[bytes]) -> list[Attack]:
    async def sent(data: bytes, pieces: bytes = b"", count: int = 0) -> int:
        async with connected(up) as wire:
            sending = asyncio.create_task(_send(wire.send, data, pieces, count))
            try:
                return (await wire.answer()).status
            except ConnectionError:
                return 0  # reset after the refusal: the answer was lost on the way
            finally:
                sending.cancel()

    head = request(tenant, b"", content_length="", transfer_encoding="chunked")
    chunk = b"%x\r\n" % MB + b" " * MB + b"\r\n"
    declared = request(tenant, b"", content_length=str(20 * MB))
    requests = [request(tenant, body) for body in bodies]  # built once: an attacker that computes slows everybody
    attacks: list[Attack] = [partial(sent, data) for data in requests]
    attacks += [partial(sent, declared, b" " * MB, 20), partial(sent, head, chunk, 20)] * 4
    return attacks


async def _send(send: Callable[[bytes], Awaitable[None]], data: bytes, pieces: bytes, count: int) -> None:
    await send(data)
    for _ in range(count):
        await send(pieces)


async def _sampled(up: Stack, seen: list[int]) -> None:
    while True:
        seen.append(up.rss_bytes())
        await asyncio.sleep(SAMPLE_S)


async def _all_at_once(attacks: list[Attack]) -> set[int]:
    return set(await asyncio.wait_for(asyncio.gather(*(attack() for attack in attacks)), 2 * READ_S_MAX))


@pytest.mark.timeout(200)
async def test_memory_stays_bounded_when_all_attack_at_the_same_time(up: Stack) -> None:
    tenant = await add_tenant(up)
    attacks = _attacks(up, tenant, NAMED + CRAFTED)
    await latencies_ms(up, tenant, 1.0)  # what a first request needs for ever is no growth
    before, seen = up.rss_bytes(), [0]
    sampling = asyncio.create_task(_sampled(up, seen))
    try:
        statuses = set()
        for attack in attacks:
            statuses.add(await attack())
        alone = max(seen)
        for _ in range(3):
            statuses |= await _all_at_once(attacks * 2)
    finally:
        sampling.cancel()
    after = up.rss_bytes()
    print(
        f"RSS {before / MB:.0f} MB before, {alone / MB:.0f} at most one by one, {max(seen) / MB:.0f} at most all at ",
        end="",
    )
    print(f"once, {after / MB:.0f} after; statuses {sorted(statuses)}")
    assert statuses <= {0, 400, 404, 413, 415}
    assert max(seen) - before <= RSS_GROWTH_MAX
    assert after - before <= RSS_GROWTH_MAX


async def _windows(up: Stack, steady: Tenant, attacks: Iterator[Attack]) -> tuple[list[float], list[float]]:
    """Latencies in quiet and in attacked windows; they alternate, so that what else the machine does meets both."""

    async def keep_attacking() -> None:
        while True:
            await next(attacks)()
            await asyncio.sleep(ATTACK_EVERY_S)

    quiet: list[float] = []
    attacked: list[float] = []
    for _ in range(WINDOWS):
        quiet += await latencies_ms(up, steady, WINDOW_S)
        attacking = asyncio.create_task(keep_attacking())
        attacked += await latencies_ms(up, steady, WINDOW_S)
        attacking.cancel()
    return quiet, attacked


@pytest.mark.timeout(200)
async def test_steady_callers_p99_at_most_doubles_under_the_barrage(up: Stack) -> None:
    """The best of a few measurements: a stall of the gateway shows in each of them, a busy machine not in all."""
    steady, attacker = await add_tenant(up), await add_tenant(up)
    attacks = itertools.cycle(_attacks(up, attacker, NAMED))
    ratios: list[float] = []
    while len(ratios) < MEASUREMENTS_MAX and not (ratios and min(ratios) <= P99_RATIO_MAX):
        quiet, attacked = await _windows(up, steady, attacks)
        p50, p99 = ([percentile(values, part) for values in (quiet, attacked)] for part in (0.5, 0.99))
        ratios.append(p99[1] / p99[0])
        print(f"steady caller: p50 {p50[0]:.1f} → {p50[1]:.1f} ms, p99 {p99[0]:.1f} → {p99[1]:.1f} ms ", end="")
        print(f"({ratios[-1]:.2f} times; n = {len(quiet)} and {len(attacked)})")
    assert min(ratios) <= P99_RATIO_MAX
