"""`python -m loadtests.fairsim`: the fair queue under every pattern of traffic; tables on stdout,
`reports/fair-sim.json`, `reports/fair-sim.svg`.

Exit codes: 0 the bound held at every step and all targets are met; 1 one of these is not so.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from gateway.priority.bound import BoundBroken
from gateway.priority.types import WHOLE
from loadtests.fairsim.campaign import Campaign, judge, run
from loadtests.fairsim.drawing import draw
from loadtests.fairsim.figures import Figures
from loadtests.report import Verdict, table, write_report

CONTROL = "strict priority and FIFO under the same seeded traffic for the same simulated time (`policies`)"


def main() -> int:
    """Simulate, print, write; the exit code."""
    options = _parser().parse_args()
    try:
        campaign = run(options.floor, options.seed, options.steps)
    except BoundBroken as error:
        print(f"fairsim: the bound does not hold: {error}", file=sys.stderr)
        return 1
    verdicts = judge(campaign)
    print(f"{_patterns(campaign.fair)}\n\n{_policies(campaign)}\n")
    print("\n".join(verdict.line() for verdict in verdicts if not verdict.passed or options.all))
    path = write_report("fair-sim", _figures(campaign, options.seed, verdicts), CONTROL, {})
    drawing = path.with_suffix(".svg")
    drawing.write_text(draw(campaign.saturated, campaign.low_load, campaign.floor / WHOLE), encoding="utf-8")
    print(f"{sum(one.passed for one in verdicts)} of {len(verdicts)} targets met\n{path}\n{drawing}")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _figures(campaign: Campaign, seed: int, verdicts: Sequence[Verdict]) -> dict[str, object]:
    """In the names of `fair.json`, where both have them."""
    poisson = next(one for one in campaign.saturated if one.pattern == "poisson")
    return {
        "floor": campaign.floor / WHOLE,
        "public_share_60s_min": poisson.share_60s_min,
        "jain": min(row.jain for row in campaign.fair if row.jain is not None),
        "idle_slots_with_backlog": sum(row.idle_backlogged_slot_s for row in campaign.fair),
        "simulator_share": poisson.open_share,
        "lone_tenant_share": campaign.lone.busy_share,
        "seed": seed,
        "patterns": [asdict(row) for row in campaign.fair],
        "policies": {
            name: {policy: asdict(row) for policy, row in runs.items()} for name, runs in _compared(campaign).items()
        },
        "verdicts": [{**asdict(one), "passed": one.passed} for one in verdicts],
    }


def _compared(campaign: Campaign) -> Mapping[str, Mapping[str, Figures]]:
    return {"poisson": campaign.poisson, "even": campaign.even, "low_load": campaign.low_load}


def _patterns(rows: Sequence[Figures]) -> str:
    head = (
        "pattern", "steps", "minutes", "worst 60 s", "worst 10 min", "share", "Jain", "apart/2U", "short", "of bound",
        "idle slot s", "busy",
    )  # fmt: skip
    return table(head, [
        (
            row.pattern, str(row.steps), str(len(row.share_60s)), _told(row.share_60s_min),
            _told(min(row.share_600s, default=None)), _told(row.open_share), _told(row.jain, 4),
            _told(row.owners_apart), f"{row.shortfall:.0f}", f"{row.shortfall_over_bound:.0%}",
            f"{row.idle_backlogged_slot_s:.1f}", f"{row.busy_share:.1%}",
        )
        for row in rows
    ])  # fmt: skip


def _policies(campaign: Campaign) -> str:
    head = ("traffic", "policy", "open share", "priority p50/p95/p99 s", "open p50/p95/p99 s", "units/s")
    return table(head, [
        (
            traffic, name, _told(row.open_share), _waits(row, "priority"), _waits(row, "open"), f"{row.units_per_s:.0f}"
        )
        for traffic, policies in _compared(campaign).items()
        for name, row in policies.items()
    ])  # fmt: skip


def _waits(row: Figures, group: str) -> str:
    waits = {str(name): seconds for name, seconds in row.waits_s.items()}.get(group)
    return "none served" if waits is None else " / ".join(f"{one:.2f}" for one in waits)


def _told(figure: float | None, digits: int = 3) -> str:
    return "-" if figure is None else f"{figure:.{digits}f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.fairsim", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000, help="changes of the queue per pattern (default 100000)")
    parser.add_argument("--seed", type=int, default=1, help="of all traffic (default 1)")
    parser.add_argument("--floor", type=int, default=3_000, help="parts per 10000 (default 3000)")
    parser.add_argument("--all", action="store_true", help="print the targets that are met too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
