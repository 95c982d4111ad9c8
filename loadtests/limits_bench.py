"""`python -m loadtests.limits_bench`: pairs of reserve and settle a second through the product's own limiter, and
microseconds of Valkey per script, by number of levels.

The pairs run through `Holds` in one process, which shares the machine with Valkey: the most that a gateway process
could do if it did nothing else. Of the scripts it is the count of Valkey itself (`INFO commandstats`): a round trip is
shared by all calls of a moment. The control is the pair of scripts of
`BASE`, the last revision that knew the tenant only, in the same rounds. Table on stdout, `reports/limits.json`. Exit
codes: 0 measured; 1 fewer pairs than `PAIRS_MIN`; 2 could not.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uuid_utils
import uvloop
from redis import Redis
from redis.exceptions import ConnectionError as NotConnected

from gateway.limits.holds import Holds, Release
from gateway.limits.levels import UNBOUNDED, LimitLevel, Limits
from gateway.limits.reservation import Reservation
from gateway.limits.scripts import Script
from gateway.up.folder import DataFolder
from gateway.up.stores import Valkey
from loadtests.processes import Unmeasurable, running
from loadtests.report import table, write_report
from loadtests.settle_bench import postgresql
from loadtests.stack import ROOT, scratch

BASE = "c19c0d6"
ROUNDS = 7
BATCHES = 40
IN_FLIGHT = 100  # holds of the tenant at the end of each batch
PAIRS_MIN = 3_000
PAIR_ROUNDS = 5
PAIRS = 20_000
CALLERS = 128
PERIOD = "202611"
TENANT = "t"
LIMITS = Limits(10**12, 10**15, 10**9, 10**6, 10**12)
CONTROL = f"reserve.lua and settle.lua of {BASE}: one level, the tenant's, with all four limits"
_KEYS = (
    f"sekisho:use:{TENANT}:{PERIOD}",
    f"sekisho:holds:{TENANT}",
    f"sekisho:concurrent:{TENANT}",
    f"sekisho:rate:{TENANT}",
)


_Call = tuple[str, Sequence[str], Sequence[str | int]]


@dataclass(frozen=True)
class Contender:
    """A pair of scripts, and how a request is put to them."""

    name: str
    reserve: str
    settle: str
    reserve_keys: Sequence[str]
    settle_keys: Sequence[str]
    arguments: Callable[[str], Sequence[str | int]]


@dataclass(frozen=True)
class Row:
    """One line of the report: microseconds per call, and the ratio of both together to the control's."""

    what: str
    reserve_us: float
    settle_us: float
    ratio: float


def main() -> int:
    """Measure, print, write; the exit code."""
    try:
        with scratch("limits") as folder, _valkey(folder) as (client, url):
            contenders = [_before(), *_after()]
            rounds = [[_measure(client, one) for one in contenders] for _ in range(ROUNDS)]
            pairs = uvloop.run(_all_pairs(client, url, folder))
    except Unmeasurable as error:
        print(f"limits_bench: {error}", file=sys.stderr)
        return 2
    rows = [_row(one.name, [(round_[number], round_[0]) for round_ in rounds]) for number, one in enumerate(contenders)]
    lines = [(row.what, f"{row.reserve_us:.1f}", f"{row.settle_us:.1f}", f"{row.ratio:.2f}") for row in rows]
    print(table(("levels", "reserve µs", "settle µs", "both over the control"), lines))
    pairs_per_s = statistics.median(pairs)
    figures = {
        "pairs_per_s": round(pairs_per_s), "pairs_per_s_rounds": [round(one) for one in pairs],
        "rows": [asdict(row) for row in rows], "in_flight": IN_FLIGHT,
    }  # fmt: skip
    print(f"\n{pairs_per_s:.0f} pairs of reserve and settle a second, 4 limited levels (at least {PAIRS_MIN})")
    print(f"\n{write_report('limits', figures, CONTROL, {})}")
    return 0 if pairs_per_s >= PAIRS_MIN else 1


def _row(what: str, rounds: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> Row:
    """The medians of what was measured, each round with its control."""
    return Row(
        what,
        statistics.median(measured[0] for measured, _ in rounds),
        statistics.median(measured[1] for measured, _ in rounds),
        statistics.median(sum(measured) / sum(control) for measured, control in rounds),
    )


@contextmanager
def _valkey(folder: Path) -> Iterator[tuple[Any, str]]:
    data = DataFolder.at(folder / "data")
    data.prepare()
    with data.sockets(others_pass=False) as sockets:
        server = Valkey.of(data, sockets, {})
        client: Any = Redis.from_url(server.url, decode_responses=True)
        with running(server.command().argv, ready=lambda: _answers(client), log=folder / "valkey.log"):
            yield client, server.url
            client.close()


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except NotConnected:
        return False


def _before() -> Contender:
    """The scripts of `BASE`."""
    texts = []
    for name in ("reserve.lua", "settle.lua"):
        shown = subprocess.run(
            ["git", "show", f"{BASE}:gateway/limits/{name}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if shown.returncode != 0:
            raise Unmeasurable(f"this clone does not hold revision {BASE}: fetch the whole history")
        texts.append(shown.stdout)
    use, holds, _, rate = _KEYS
    bounds = (LIMITS.tokens_month or 0, LIMITS.micro_yen_month or 0, LIMITS.rpm or 0, LIMITS.concurrency or 0)
    return Contender(
        f"tenant only ({BASE})", texts[0], texts[1], (use, holds, rate), (use, holds),
        lambda request_id: (request_id, 100, 48_000, *bounds, PERIOD, "gateway-1"),
    )  # fmt: skip


async def _all_pairs(client: Any, url: str, folder: Path) -> list[float]:
    async with postgresql(folder / "book") as dsn:
        return [await _pairs(client, url, dsn) for _ in range(PAIR_ROUNDS)]


async def _pairs(client: Any, url: str, dsn: str) -> float:
    """Pairs of reserve and settle a second through `Holds`, at four limited levels of one tenant."""
    tenant = f"t-{uuid_utils.uuid7()}"
    inner = (("licence", "licence-1/g1"), ("project", "project-1"), ("key", "0123456789ab"))
    levels = (LimitLevel("tenant", tenant, LIMITS), *(LimitLevel(kind, id_, LIMITS) for kind, id_ in inner))  # type: ignore[arg-type]
    holds, numbers = Holds(url, dsn), iter(range(PAIRS))

    async def pair() -> None:
        request_id = str(uuid_utils.uuid7())
        hold = await holds.reserve(request_id, tenant, levels, PERIOD, 100, 48_000, "gateway-1", licence="l@1")
        await holds.release(Release(hold.request_id, tenant, PERIOD, 60, 30_000))

    async def caller() -> None:
        for _ in numbers:
            await pair()

    await pair()  # reads the month and the mode
    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    taken_s = time.perf_counter() - began
    await holds.close()
    used = [client.hget(key, "used_tokens") for key in client.scan_iter(match=f"sekisho:*:use:{tenant}:*", count=1_000)]
    if used != [str(60 * (PAIRS + 1))]:
        raise Unmeasurable(f"the limiter lost count: {used}")
    return PAIRS / taken_s


def _know_month(client: Any) -> None:
    fields = ("used_tokens", "held_tokens", "used_micro_yen", "held_micro_yen")
    client.hset(_KEYS[0], mapping=dict.fromkeys(fields, 0))


def _after() -> list[Contender]:
    """The scripts of this tree with one to four levels."""
    inner = (("licence", "licence-1/g1"), ("key", "0123456789ab"), ("project", "project-1"))
    tenant = LimitLevel("tenant", TENANT, LIMITS)
    found = [_contender("tenant", (tenant,))]
    for limits, word in ((UNBOUNDED, "counted"), (LIMITS, "limited")):
        for number in (2, 3):
            levels = tuple(LimitLevel(kind, id_, limits) for kind, id_ in inner[:number])  # type: ignore[arg-type]
            found.append(_contender(f"tenant + {number} {word}", (tenant, *levels)))
    return found


def _contender(name: str, levels: tuple[LimitLevel, ...]) -> Contender:
    def arguments(request_id: str) -> Sequence[str | int]:
        return Reservation(
            request_id, TENANT, levels, PERIOD, 100, 48_000, "gateway-1", "Asia/Tokyo", None
        ).arguments  # fmt: skip

    texts = (Script.load("reserve.lua").text, Script.load("settle.lua").text)
    return Contender(name, *texts, _KEYS, _KEYS, arguments)


def _measure(client: Any, one: Contender) -> tuple[float, float]:
    """Microseconds per reserve and per settle."""
    client.flushall()
    _know_month(client)
    reserve, settle = client.script_load(one.reserve), client.script_load(one.settle)
    spent_us = [0.0, 0.0]
    for batch in range(BATCHES):
        ids = [f"0199a5c0-0000-7000-8000-{batch:06d}{n:06d}" for n in range(IN_FLIGHT)]
        calls: tuple[list[_Call], list[_Call]] = (
            [(reserve, one.reserve_keys, one.arguments(request_id)) for request_id in ids],
            [(settle, one.settle_keys, (request_id, 60, 30_000)) for request_id in ids],
        )
        for part, commands in enumerate(calls):
            client.config_resetstat()
            pipeline = client.pipeline(transaction=False)
            for sha, keys, arguments in commands:
                pipeline.evalsha(sha, len(keys), *keys, *arguments)
            pipeline.execute()
            spent_us[part] += client.info("commandstats")["cmdstat_evalsha"]["usec"]
    calls_made = BATCHES * IN_FLIGHT
    return spent_us[0] / calls_made, spent_us[1] / calls_made


if __name__ == "__main__":
    sys.exit(main())
