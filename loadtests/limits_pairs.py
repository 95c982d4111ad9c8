"""Pairs of reserve and settle per second through the product's own limiter, one process: in Valkey, and in the book."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import uuid_utils
import uvloop

from gateway.limits import modes
from gateway.limits.holds import Holds, Release
from gateway.limits.levels import LimitLevel, Limits
from loadtests.stores import stores

ROUNDS = 5
ROUND_S = 2.0
IN_FLIGHT = 128
TENANTS = 16
PERIOD = "202611"
_LIMITS = Limits(10**15, 10**15, 10**9, 10**6, 10**12)


@dataclass(frozen=True)
class Pairs:
    """Pairs per second by round."""

    where: str
    rounds: list[float]


def measure(folder: Path) -> list[Pairs]:
    """Both stores, on stores of their own in `folder`."""
    return uvloop.run(_measure(folder))


async def _measure(folder: Path) -> list[Pairs]:
    async with stores(folder / "data") as found_at:
        holds = Holds(found_at.valkey_url, found_at.dsn)
        try:
            await holds.ready()
            found = [await _rounds("valkey", holds)]
            modes.BACK_S = float("inf")  # Valkey is there all the time, and not to be gone back to
            mode = await holds.modes.admitting()
            await holds.modes.turn_to_book(mode)
            await holds.modes.beyond(mode.generation)
            await holds.ready()
            found.append(await _rounds("book", holds))
        finally:
            await holds.close()
    return found


async def _rounds(where: str, holds: Holds) -> Pairs:
    await _round(holds, 0.5)  # months are read, scripts are loaded
    return Pairs(where, [await _round(holds, ROUND_S) for _ in range(ROUNDS)])


async def _round(holds: Holds, for_s: float) -> float:
    started = time.perf_counter()
    counts = await asyncio.gather(*(_client(holds, number, started + for_s) for number in range(IN_FLIGHT)))
    return sum(counts) / (time.perf_counter() - started)


async def _client(holds: Holds, number: int, until: float) -> int:
    """Reserve and settle, one after the other, at four limited levels."""
    tenant_id, done = f"t-{number % TENANTS}", 0
    levels = (
        LimitLevel("tenant", tenant_id, _LIMITS), LimitLevel("licence", "lic/g1", _LIMITS),
        LimitLevel("project", "alpha", _LIMITS), LimitLevel("key", f"{number:012d}", _LIMITS),
    )  # fmt: skip
    while time.perf_counter() < until:
        request_id = str(uuid_utils.uuid7())
        await holds.reserve(request_id, tenant_id, levels, PERIOD, 500, 48_000, "bench")
        await holds.release(Release(request_id, tenant_id, PERIOD, 300, 30_000))
        done += 1
    return done
