"""`make bench-kill`: the campaign of `tests/kill`, longer; a table on stdout, `reports/kill.json`.

Gateways, worker, engine, PostgreSQL and Valkey die at every point and at random times, until there were `--kills`
deaths; clients leave, settlements and ends of holds are delivered twice. `make soak` asks for 10,000 deaths (hours).
Real vLLM dies in `tests/vllm/test_kill.py`.

Exit code 0: all books are right and every point was reached; 1: they are not; 2: it could not be run.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from gateway.up.failure import UpError
from loadtests.report import table, write_report
from loadtests.stack import scratch
from tests.kill.drill import Drill, Plan, Report
from tests.kill.stack import running

SHOWN_MAX = 5


def main() -> int:
    """Run the campaign; returns the exit code."""
    options = _parser().parse_args()
    plan = Plan(
        seed=options.seed, repeats=options.repeats, random_s=options.random_s, kills_min=options.kills, control_s=5.0,
        both=4,
    )  # fmt: skip
    try:
        with scratch("kill") as folder:
            report = asyncio.run(_run(plan, folder / "data"))
    except UpError as error:
        print(f"bench-kill: {error}\n{error.detail}", file=sys.stderr)
        return 2
    figures = _figures(report, plan)
    path = write_report("kill", figures, _control(report), {})
    print(_text(report, figures))
    print(f"\nwritten to {path}")
    bad = any(report.findings.wrong.values()) or report.missed or report.quiet_s is None
    return 1 if bad or len(report.deaths) < plan.kills_min else 0


async def _run(plan: Plan, folder: Path) -> Report:
    async with running(folder) as stack:
        return await Drill(stack, plan).run()


def _figures(report: Report, plan: Plan) -> dict[str, object]:
    found = report.findings
    return {
        "kills": len(report.deaths),
        "requests": report.requests,
        "duplicates": report.duplicates,
        "left_by_clients": sum(call.left for call in report.facts.seen),
        "valkey_forgot": report.forgot,
        "delivered": sum(call.delivered for call in report.facts.seen),
        **{name: len(sentences) for name, sentences in found.wrong.items()},
        "ambiguous": len(found.ambiguous),
        "uncertain_tokens": found.uncertain_tokens,
        "uncounted": found.uncounted,
        "below_record_tokens": found.below_record_tokens,
        "cached_unknown_tokens": found.cached_unknown_tokens,
        "points_missed": report.missed,
        "recovered_after_s": report.quiet_s,
        "wall_s": round(report.wall_s, 1),
        "seed": plan.seed,
        "by_victim": report.by_victim,
    }


def _control(report: Report) -> str:
    wrong = sum(len(sentences) for sentences in report.control.wrong.values())
    unanswered = sum(not call.complete for call in report.control_seen)
    return (
        f"the same load with nobody killed: {len(report.control_seen)} requests, {unanswered} unanswered, {wrong} wrong"
    )


def _text(report: Report, figures: dict[str, object]) -> str:
    kills = [
        (victim, point, str(count)) for victim, points in report.by_victim.items() for point, count in points.items()
    ]
    names = [name for name in figures if name not in ("by_victim", "points_missed")]
    parts = [table(("victim", "point", "kills"), kills), ""]
    parts += [table(("figure", "value"), [(name, str(figures[name])) for name in names]), "", _control(report)]
    for name, sentences in report.findings.wrong.items():
        parts += [f"{name}: {sentence}" for sentence in sentences[:SHOWN_MAX]]
    parts += [f"missed: {sentence}" for sentence in report.missed]
    return "\n".join(parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.kill", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of all choices (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each point (default 3)")
    parser.add_argument("--random-s", type=float, default=30.0, help="seconds of deaths at random times (default 30)")
    parser.add_argument("--kills", type=int, default=310, help="deaths of all kinds at least (default 310)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
