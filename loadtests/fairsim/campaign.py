"""All patterns under the fair queue, beside the rivals where they are compared, and whether the targets are met."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.priority.fair_queue import CREDIT
from gateway.priority.types import WHOLE
from loadtests.fairsim.figures import Figures, simulate, simulate_rival
from loadtests.fairsim.patterns import EVEN, LONE, LOW_LOAD, SATURATED, Sources
from loadtests.fairsim.rivals import fifo, strict
from loadtests.fairsim.simulation import policy
from loadtests.fairsim.traffic import SECOND_US
from loadtests.report import Verdict

# A minute of the pool is some 500 000 units; a prompt of 16 000 tokens cannot be fair to 3 % of a third of that.
MINUTE_TOO_SHORT = frozenset({"long_prompts"})
COMPARED_PART = 4  # of the steps; enough to see what policies differ in where all is saturated
SHARE_LOSS_MAX, UNFAIR_MAX, GOODPUT_LOSS_MAX, WAIT_OVER_STRICT_MAX, UNUSED_MAX = 0.03, 0.01, 0.01, 1.1, 0.01


@dataclass(frozen=True, slots=True)
class Campaign:
    """The fair queue's figures by pattern; at `poisson`, with even requests and at low load every policy's, under the
    same traffic for the same time."""

    floor: int
    saturated: Sequence[Figures]
    poisson: Mapping[str, Figures]
    even: Mapping[str, Figures]
    low_load: Mapping[str, Figures]
    lone: Figures

    @property
    def fair(self) -> Sequence[Figures]:
        """All runs of the fair queue."""
        return [*self.saturated, self.low_load["fair"], self.lone]


def run(floor: int, seed: int, steps: int) -> Campaign:
    """Simulate. Raises `BoundBroken`."""
    saturated = [simulate(name, sources, floor, seed, steps) for name, sources in SATURATED.items()]
    part = steps // COMPARED_PART
    return Campaign(
        floor, saturated,
        poisson=_beside("poisson", SATURATED["poisson"], floor, seed, part),
        even=_beside("even", EVEN, floor, seed, part),
        low_load=_beside("low_load", LOW_LOAD, floor, seed, steps),
        lone=simulate("lone", LONE, floor, seed, steps),
    )  # fmt: skip


def _beside(pattern: str, sources: Sources, floor: int, seed: int, steps: int) -> Mapping[str, Figures]:
    fair = simulate(pattern, sources, floor, seed, steps)
    until_us = int(fair.simulated_s * SECOND_US)
    rivals = {"strict": strict(policy(floor)), "fifo": fifo(policy(floor))}
    others = {name: simulate_rival(pattern, sources, rival, seed, until_us) for name, rival in rivals.items()}
    return {"fair": fair, **others}


def judge(campaign: Campaign) -> list[Verdict]:
    """Against the targets; the bound itself was checked at every step."""
    floor = campaign.floor / WHOLE
    found = []
    for row in campaign.fair:
        found.append(Verdict(f"{row.pattern}: shortfall over the bound", row.shortfall_over_bound, 1, "times"))
        found.append(Verdict(f"{row.pattern}: idle with a backlog", row.idle_backlogged_slot_s, 0, "slot seconds"))
        if row.jain is not None:
            found.append(Verdict(f"{row.pattern}: 1 less Jain's index", 1 - row.jain, UNFAIR_MAX, ""))
        if row.owners_apart is not None:
            found.append(Verdict(f"{row.pattern}: owners apart, |W_f − W_g| / 2U", row.owners_apart, 1, "times"))
        if row.share_60s_min is not None and row.pattern not in MINUTE_TOO_SHORT:
            loss = 1 - row.share_60s_min / floor
            found.append(Verdict(f"{row.pattern}: worst minute below the floor", loss, SHARE_LOSS_MAX, "of it"))
    exact = next(one for one in campaign.saturated if one.pattern == "exact")
    tight = exact.single_max + exact.in_flight_max / CREDIT
    found.append(Verdict("exact: shortfall over u + U/8", exact.shortfall / tight, 1, "times"))
    return found + _compared(campaign)


def _compared(campaign: Campaign) -> list[Verdict]:
    fair, strict_ = (campaign.low_load[name].waits_s["priority"][1] for name in ("fair", "strict"))
    loss = 1 - campaign.even["fair"].units_per_s / campaign.even["fifo"].units_per_s
    return [
        Verdict("investors' p95 wait at low load over strict's", fair / strict_, WAIT_OVER_STRICT_MAX, "times"),
        Verdict("goodput lost against FIFO", loss, GOODPUT_LOSS_MAX, "of it"),
        Verdict("share of open under strict priority", campaign.poisson["strict"].open_share, 0.01, ""),
        Verdict("slots unused by a lone tenant", 1 - campaign.lone.busy_share, UNUSED_MAX, "of them"),
    ]
