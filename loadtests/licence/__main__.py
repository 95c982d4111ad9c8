"""`python -m loadtests.licence` (`make bench-licence`): table on stdout, `reports/licence.json`.

Exit codes: 0 all targets met; 1 a target missed; 2 it could not be measured (one line says why).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata

from loadtests.licence.agreement import agreement
from loadtests.licence.decisions import Row, measure
from loadtests.licence.revoke import Revocation, revocation_seconds
from loadtests.processes import Unmeasurable, others_busy_share
from loadtests.report import Verdict, table, write_report
from loadtests.stack import scratch
from tests.gateway.licensing.oracle import Comparison

SEED = 20261124
CONTROL = (
    "Cedar (cedarpy) on the policies of one tenant, parsed beforehand, the same questions in the same run: median per"
    " decision in cedar_p50_us, and the oracle of the comparison"
)


def main() -> int:
    """Measure, print, write; the exit code."""
    options = _options()
    try:
        return _measure(options)
    except Unmeasurable as error:
        print(f"bench-licence: {error}", file=sys.stderr)
        return 2


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.licence")
    parser.add_argument("--decisions", type=int, default=200_000, help="timed decisions of each layout")
    parser.add_argument("--oracle-cases", type=int, default=100_000, help="random cases that Cedar decides too")
    parser.add_argument("--revocations", type=int, default=4, help="rounds of each kind; 0 leaves them out")
    parser.add_argument("--seed", type=int, default=SEED)
    return parser.parse_args()


def _measure(options: argparse.Namespace) -> int:
    busy = others_busy_share()
    print(f"other programs keep {busy:.0%} of the cores busy before the first round", flush=True)
    rows = [measure(layout, options.decisions, options.seed) for layout in ("spread", "crowded")]
    print(_rows(rows), flush=True)
    compared = agreement(options.seed, options.oracle_cases)
    print(f"\n{_compared(compared)}", flush=True)
    revocations: list[Revocation] = []
    if options.revocations:
        with scratch("licence") as folder:
            revocations = revocation_seconds(folder, options.revocations)
        print(f"\n{_revocations(revocations)}", flush=True)
    slowest = max((one.seconds for one in revocations), default=None)
    verdicts = _verdicts(rows, compared, slowest)
    print("\n" + "\n".join(verdict.line() for verdict in verdicts))
    figures: dict[str, object] = {
        "decide_p50_us": round(max(row.p50_us for row in rows), 3),
        "decide_p99_us": round(max(row.p99_us for row in rows), 3),
        "oracle_cases": compared.cases, "oracle_disagreements": compared.disagreements,
        "revoke_s_max": None if slowest is None else round(slowest, 3),
        "ratio_cedar": round(min(row.cedar_p50_us / row.p50_us for row in rows), 1),
        "rows": [asdict(row) for row in rows], "oracle_allowed": compared.allowed,
        "oracle_refusals": dict(compared.refusals.most_common()), "revocations": [asdict(one) for one in revocations],
        "seed": options.seed, "others_busy_share": busy,
        "verdicts": [{**asdict(one), "passed": one.passed} for one in verdicts],
    }  # fmt: skip
    path = write_report("licence", figures, CONTROL, {"cedarpy": metadata.version("cedarpy")})
    print(f"\n{path}")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _verdicts(rows: Sequence[Row], compared: Comparison, slowest: float | None) -> list[Verdict]:
    verdicts = [Verdict(f"decision p99, grants {row.layout}", row.p99_us, 10.0, "us") for row in rows]
    verdicts.append(Verdict("disagreements with Cedar", compared.disagreements, 0, "cases"))
    if slowest is not None:
        verdicts.append(Verdict("revocation in force on three gateways", slowest, 1.0, "s"))
    return verdicts


def _rows(rows: Sequence[Row]) -> str:
    return table(
        ("grants", "decisions", "allowed", "p50 us", "p99 us", "cedar p50 us", "compile all s", "compile tenant ms"),
        [
            (
                row.layout, str(row.decisions), f"{row.allowed:.0%}", f"{row.p50_us:.2f}", f"{row.p99_us:.2f}",
                f"{row.cedar_p50_us:.0f}", f"{row.compile_all_s:.2f}", f"{row.compile_tenant_ms:.2f}",
            )
            for row in rows
        ],
    )  # fmt: skip


def _compared(compared: Comparison) -> str:
    lines = [f"{compared.cases} cases, {compared.allowed} allowed, {compared.disagreements} disagreements with Cedar"]
    return "\n".join([*lines, *compared.examples[:5]])


def _revocations(revocations: Sequence[Revocation]) -> str:
    kinds = sorted({(one.what, one.notified) for one in revocations})
    rows = []
    for what, notified in kinds:
        seconds = sorted(one.seconds for one in revocations if (one.what, one.notified) == (what, notified))
        middle = seconds[len(seconds) // 2]
        rows.append((what, "yes" if notified else "no", str(len(seconds)), f"{middle:.3f}", f"{seconds[-1]:.3f}"))
    return table(("revoked", "notified", "rounds", "median s", "max s"), rows)


if __name__ == "__main__":
    sys.exit(main())
