"""`make bench-limits`: pairs of reserve and settle per second through the product's own limiter, in Valkey and in the
book; and microseconds of Valkey per script, by number of levels.

Valkey's own count (`INFO commandstats`), not the round trip: a round trip is shared by all calls of a moment, the
script's time is what one Valkey has to give. Its control is the pair of scripts of `BASE`, the last revision that knew
the tenant only, in the same rounds. Table on stdout, `reports/limits.json`. Exit codes: 0 measured and
enough; 1 fewer pairs than PAIRS_PER_S_MIN; 2 could not.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as NotConnected

from gateway.limits.levels import UNBOUNDED, LimitLevel, Limits
from gateway.limits.reservation import Reservation
from gateway.limits.scripts import Script
from gateway.up.folder import DataFolder
from gateway.up.stores import Valkey
from loadtests import limits_pairs
from loadtests.processes import Unmeasurable, running
from loadtests.report import table, write_report
from loadtests.stack import ROOT, scratch

BASE = "c19c0d6"
ROUNDS = 7
BATCHES = 40
IN_FLIGHT = 100  # holds of the tenant at the end of each batch
PERIOD = "202611"
TENANT = "t"
LIMITS = Limits(10**12, 10**15, 10**9, 10**6, 10**12)
PAIRS_PER_S_MIN = 3_000
CONTROL = f"reserve.lua and settle.lua of {BASE}: one level, the tenant's, with all four limits"
_KEYS = (
    f"sekisho:use:{TENANT}:{PERIOD}",
    f"sekisho:holds:{TENANT}",
    f"sekisho:concurrent:{TENANT}",
    f"sekisho:rate:{TENANT}",
    "sekisho:mark",
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
        with scratch("limits-pairs") as folder:
            pairs = limits_pairs.measure(folder)
        with scratch("limits") as folder, _valkey(folder) as client:
            contenders = [_before(), *_after()]
            rounds = [[_measure(client, one) for one in contenders] for _ in range(ROUNDS)]
    except Unmeasurable as error:
        print(f"limits_bench: {error}", file=sys.stderr)
        return 2
    rows = [_row(one.name, [(round_[number], round_[0]) for round_ in rounds]) for number, one in enumerate(contenders)]
    lines = [(row.what, f"{row.reserve_us:.1f}", f"{row.settle_us:.1f}", f"{row.ratio:.2f}") for row in rows]
    print(table(("levels", "reserve µs", "settle µs", "both over the control"), lines))
    rates = {one.where: statistics.median(one.rounds) for one in pairs}
    told = [(where, f"{rate:.0f}") for where, rate in rates.items()]
    print(f"\n{table(('limits kept in', 'pairs/s'), told)}")
    figures = {
        "rows": [asdict(row) for row in rows], "in_flight": IN_FLIGHT, "pairs": [asdict(one) for one in pairs],
        "pairs_per_s": rates["valkey"], "book_pairs_per_s": rates["book"], "pairs_per_s_min": PAIRS_PER_S_MIN,
    }  # fmt: skip
    print(f"\n{write_report('limits', figures, CONTROL, {})}")
    return 0 if rates["valkey"] >= PAIRS_PER_S_MIN else 1


def _row(what: str, rounds: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> Row:
    """The medians of what was measured, each round with its control."""
    return Row(
        what,
        statistics.median(measured[0] for measured, _ in rounds),
        statistics.median(measured[1] for measured, _ in rounds),
        statistics.median(sum(measured) / sum(control) for measured, control in rounds),
    )


@contextmanager
def _valkey(folder: Path) -> Iterator[Any]:
    data = DataFolder.at(folder / "data")
    data.prepare()
    with data.sockets(others_pass=False) as sockets:
        server = Valkey.of(data, sockets, {})
        client: Any = Redis.from_url(server.url, decode_responses=True)
        with running(server.command().argv, ready=lambda: _answers(client), log=folder / "valkey.log"):
            yield client
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
    use, holds, _, rate, _ = _KEYS
    bounds = (LIMITS.tokens_month or 0, LIMITS.micro_yen_month or 0, LIMITS.rpm or 0, LIMITS.concurrency or 0)
    return Contender(
        f"tenant only ({BASE})", texts[0], texts[1], (use, holds, rate), (use, holds),
        lambda request_id: (request_id, 100, 48_000, *bounds, PERIOD, "gateway-1"),
    )  # fmt: skip


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
    client.hset(_KEYS[0], mapping=dict.fromkeys(("used_tokens", "held_tokens", "used_micro_yen", "held_micro_yen"), 0))
    reserve, settle = client.script_load(one.reserve), client.script_load(one.settle)
    spent_us = [0.0, 0.0]
    for batch in range(BATCHES):
        ids = [f"0199a5c0-0000-7000-8000-{batch:06d}{n:06d}" for n in range(IN_FLIGHT)]
        calls: tuple[list[_Call], list[_Call]] = (
            [(reserve, one.reserve_keys, one.arguments(request_id)) for request_id in ids],
            [(settle, one.settle_keys, (request_id, 60, 30_000, "end")) for request_id in ids],
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
