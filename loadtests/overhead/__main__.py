"""`python -m loadtests.overhead` (`make bench-overhead`): table on stdout, `reports/overhead.json`.

Exit codes: 0 all targets met; 1 a target missed; 2 it could not be measured (one line says why).
`--base REV` measures another revision in the same rounds; `--accept` keeps this run's ratio in `baseline.json`.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests.overhead.constant import nginx_version
from loadtests.overhead.counts import Counts, count
from loadtests.overhead.fivehundred import Crowd, crowd
from loadtests.overhead.rig import Rig, rig
from loadtests.overhead.rounds import Sample, medians, per_round, play
from loadtests.overhead.wrk import wrk_version
from loadtests.processes import Unmeasurable, others_busy_share
from loadtests.report import Verdict, commit, table, write_report
from loadtests.stack import scratch

BASELINE = Path(__file__).resolve().parents[1] / "baseline.json"
ROUNDS_MIN = 5
CONTROL = (
    "direct: wrk (raw client for streams) to the upstream itself; relay: FastAPI + uvicorn (uvloop, httptools) + one "
    "aiohttp session, one process, same rounds. Rows are medians over the rounds, ratios medians of each round's ratio."
)


def main() -> int:
    """Measure, print, write; the exit code."""
    options = _options()
    try:
        with scratch("overhead") as folder, rig(folder, options.base) as the_rig:
            return _measure(the_rig, folder, options)
    except Unmeasurable as error:
        print(f"bench-overhead: {error}", file=sys.stderr)
        return 2


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.overhead")
    parser.add_argument("--rounds", type=int, default=ROUNDS_MIN, help="alternating rounds (default and least: 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each wrk run")
    parser.add_argument("--streams-s", type=int, default=60, help="length of the 500 streams; 0 leaves them out")
    parser.add_argument("--base", default="", help="revision to measure in the same rounds")
    parser.add_argument("--accept", action="store_true", help="keep this run's ratio in loadtests/baseline.json")
    return parser.parse_args()


def _measure(the_rig: Rig, folder: Path, options: argparse.Namespace) -> int:
    busy = others_busy_share()
    print(f"other programs keep {busy:.0%} of the cores busy before the first round", flush=True)
    rounds = play(the_rig, max(ROUNDS_MIN, options.rounds), options.seconds)
    counts = [count(the_rig, folder, c, 3.0) for c in (1, 32)]
    people = crowd(the_rig, options.streams_s) if options.streams_s else None
    rows = medians(rounds)
    ratios = _ratios(rounds)
    verdicts = _verdicts(rounds, ratios, people)
    print(_table(rows))
    print(
        "\n".join(["", *_ratio_lines(ratios, options.base), "", *map(_count_lines, counts), *_crowd_lines(people), ""])
    )
    print("\n".join(verdict.line() for verdict in verdicts))
    figures: dict[str, object] = {
        "rows": [asdict(row) for row in rows], **ratios, "counts": [asdict(each) for each in counts],
        "streams": None if people is None else asdict(people), "rounds": [[asdict(s) for s in one] for one in rounds],
        "others_busy_share": busy, "verdicts": [{**asdict(one), "passed": one.passed} for one in verdicts],
    }  # fmt: skip
    path = write_report("overhead", figures, CONTROL, {"nginx": nginx_version(), "wrk": wrk_version()})
    print(f"\n{path}")
    if options.accept:
        _accept(ratios)
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _ratios(rounds: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    def ratio(name: str, c: int, what: str = "sekisho") -> float:
        pairs = zip(
            per_round(rounds, name, what, c, stream=False), per_round(rounds, name, "relay", c, stream=False),
            strict=True,
        )  # fmt: skip
        return round(statistics.median(one / other for one, other in pairs), 3)

    base = next((sample.what for sample in rounds[0] if sample.what.startswith("base ")), None)
    ratios: dict[str, Any] = {
        "ratio_cpu": ratio("cpu_us", 32), "ratio_rps": ratio("rps", 32),
        "ratio_cpu_c1": ratio("cpu_us", 1), "ratio_rps_c1": ratio("rps", 1),
    }  # fmt: skip
    if base is not None:
        ratios["base_ratio_cpu"] = ratio("cpu_us", 32, base)
    return ratios


def _added(rounds: Sequence[Sequence[Sample]], name: str, *, stream: bool) -> float:
    ours = per_round(rounds, name, "sekisho", 1, stream=stream)
    direct = per_round(rounds, name, "direct", 1, stream=stream)
    return statistics.median(one - other for one, other in zip(ours, direct, strict=True))


def _verdicts(rounds: Sequence[Sequence[Sample]], ratios: dict[str, Any], people: Crowd | None) -> list[Verdict]:
    verdicts = [
        Verdict("added p50 at c=1 (over direct)", _added(rounds, "p50_ms", stream=False), 2.5, "ms"),
        Verdict("added time to first token at c=1 (over direct)", _added(rounds, "ttft_ms", stream=True), 3.0, "ms"),
        Verdict("ratio_cpu at c=32 (gateway over relay)", ratios["ratio_cpu"], 2.6, "times"),
    ]
    return verdicts if people is None else [*verdicts, *people.verdicts()]


def _table(rows: Sequence[Sample]) -> str:
    head = ("what", "c", "stream", "bytes", "req/s", "p50 ms", "p99 ms", "ttft ms", "cpu us")
    return table(
        head,
        [
            (
                row.what, str(row.c), "yes" if row.stream else "no", str(row.body_bytes), f"{row.rps:.0f}",
                f"{row.p50_ms:.3f}", f"{row.p99_ms:.3f}", f"{row.ttft_ms:.3f}" if row.stream else "-",
                f"{row.cpu_us:.0f}" if row.cpu_us else "-",
            )
            for row in rows
        ],
    )  # fmt: skip


def _ratio_lines(ratios: dict[str, Any], base: str) -> list[str]:
    lines = [f"{name} {value}" for name, value in ratios.items()]
    if BASELINE.exists():
        accepted = json.loads(BASELINE.read_text(encoding="utf-8"))
        change = ratios["ratio_cpu"] / accepted["ratio_cpu"] - 1
        lines.append(f"ratio_cpu last accepted {accepted['ratio_cpu']} at {accepted['commit'][:12]}: {change:+.1%}")
    if base:
        change = ratios["ratio_cpu"] / ratios["base_ratio_cpu"] - 1
        lines.append(f"ratio_cpu against {base} in the same rounds: {change:+.1%}")
    return lines


def _count_lines(counts: Counts) -> str:
    statements = ", ".join(f"{name} {n:.2f}" for name, n in counts.postgresql.items())
    commands = ", ".join(f"{name} {n:.2f}" for name, n in counts.valkey_commands.items())
    return (
        f"per request at c={counts.c} ({counts.requests} requests): PostgreSQL {counts.postgresql_total:.2f} statements"
        f" ({statements}); Valkey {counts.valkey_round_trips:.2f} round trips (commands: {commands});"
        f" the process itself: {counts.background_per_s:.1f} statements/s"
    )


def _crowd_lines(people: Crowd | None) -> list[str]:
    return [] if people is None else ["", *people.lines()]


def _accept(ratios: dict[str, Any]) -> None:
    kept = {"ratio_cpu": ratios["ratio_cpu"], "ratio_rps": ratios["ratio_rps"], "commit": commit()}
    BASELINE.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
