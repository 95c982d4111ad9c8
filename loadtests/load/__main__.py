"""`python -m loadtests.load` (`make load`): mixed chat traffic of several tenants; table, `reports/load.json`.

Exit codes: 0 no error, all books alike and p99 within its limit; 1 one of these missed; 2 it could not be measured.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata

from loadtests.load.figures import JUDGED, Row, ratios_p99, rows
from loadtests.load.run import PARTNERS, TURN_S, Ran, run
from loadtests.processes import Unmeasurable, others_busy_share
from loadtests.report import Verdict, table, write_report
from loadtests.stack import scratch

RATIO_P99_MAX = 5.0
SHOWN_MAX = 10
CONTROL = (
    "relay: FastAPI + uvicorn (uvloop, httptools) + one aiohttp session before a scripted engine of its own, asked by "
    f"the same users with the same chats, in turns of {TURN_S:g} s; the first turn of each is left out of the latencies"
)


def main() -> int:
    """Run, print, write; the exit code."""
    options = _parser().parse_args()
    try:
        with scratch("load") as folder:
            busy = others_busy_share()
            ran = run(folder, options.seconds, options.users)
            measured = rows(ran.samples, TURN_S, ran.turns)
            ratios = ratios_p99(measured)
    except Unmeasurable as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    verdicts = judge(ran, ratios)
    print(f"other programs kept {busy:.0%} of the cores busy before the run\n\n{_text(ran, measured, ratios)}\n")
    print("\n".join(verdict.line() for verdict in verdicts))
    figures: dict[str, object] = {
        "users": options.users, "seconds": ran.turns * TURN_S, "tenants": len(PARTNERS),
        "rows": [asdict(row) for row in measured], "ratio_p99": ratios, **_counted(ran), "others_busy_share": busy,
        "verdicts": [{**asdict(one), "passed": one.passed} for one in verdicts],
    }  # fmt: skip
    print(f"\n{write_report(options.report, figures, CONTROL, {'locust': metadata.version('locust')})}")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def judge(ran: Ran, ratios: dict[str, float]) -> list[Verdict]:
    """Against the targets."""
    return [
        Verdict("errors", len(_errors(ran)), 0, "errors"),
        Verdict("usage that differs from the engine's record", len(ran.audit.findings), 0, "findings"),
        *(Verdict(f"p99 of {kind} answers over the relay's", ratios[kind], RATIO_P99_MAX, "times") for kind in JUDGED),
    ]


def _errors(ran: Ran) -> list[str]:
    """Failed requests to either target; what Locust complains of counts when no request explains it."""
    failed = [f"{one.target} {one.kind}: {one.failure}" for one in ran.samples if one.failure]
    return failed or ([ran.complaint] if ran.complaint else [])


def _counted(ran: Ran) -> dict[str, object]:
    comparison = ran.audit.comparison
    return {
        "requests": sum(sample.target == "sekisho" for sample in ran.samples),
        "refusals_expected": sum(sample.refused and not sample.failure for sample in ran.samples),
        "errors": len(_errors(ran)),
        "first_errors": _errors(ran)[:SHOWN_MAX],
        "compared_requests": comparison.requests,
        "recorded_tokens": comparison.recorded_tokens,
        "booked_tokens": comparison.booked_tokens,
        "differing_tokens": comparison.differing_tokens,
        "findings": list(ran.audit.findings[:SHOWN_MAX]),
        "findings_total": len(ran.audit.findings),
        "totals": [
            {"tenant": tenant, "model": model, **asdict(tokens)}
            for (tenant, model), tokens in sorted(ran.audit.totals.items())
        ],
    }


def _text(ran: Ran, measured: Sequence[Row], ratios: dict[str, float]) -> str:
    comparison = ran.audit.comparison
    latencies = table(
        ("kind", "what", "requests", "errors", "req/s", "p50 ms", "p90 ms", "p99 ms", "ratio p99"),
        [
            (
                row.kind, row.what, str(row.requests), str(row.errors), f"{row.rps:.1f}", f"{row.p50_ms:.1f}",
                f"{row.p90_ms:.1f}", f"{row.p99_ms:.1f}",
                f"{ratios[row.kind]:.2f}" if row.what == "sekisho" and row.kind in ratios else "-",
            )
            for row in measured
        ],
    )  # fmt: skip
    totals = table(
        ("tenant", "model", "requests", "prompt tokens", "completion tokens"),
        [
            (tenant, model, str(tokens.requests), str(tokens.prompt), str(tokens.completion))
            for (tenant, model), tokens in sorted(ran.audit.totals.items())
        ],
    )
    compared = (
        f"{comparison.requests} requests compared: engine recorded {comparison.recorded_tokens} tokens, journal booked"
        f" {comparison.booked_tokens}, {comparison.differing_tokens} apart"
    )
    wrong = [*_errors(ran)[:SHOWN_MAX], *ran.audit.findings[:SHOWN_MAX]]
    return "\n".join([latencies, "", totals, "", compared, *wrong])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.load", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="both targets' turns together (default 30)")
    parser.add_argument("--users", type=int, default=20, help="Locust users (default 20)")
    parser.add_argument("--report", default="load", help="name of the report (default load)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
