"""All patterns under the fair queue, beside the rivals where they are compared, and whether the targets are met."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.priority.fair_queue import CREDIT
from gateway.priority.types import WHOLE
from loadtests.fairsim.figures import Figures, simulate, simulate_rival
from loadtests.fairsim.patterns import LONE, LOW_LOAD, SATURATED
from loadtests.fairsim.rivals import fifo, strict
from loadtests.fairsim.simulation import policy
from loadtests.fairsim.traffic import SECOND_US
from loadtests.report import Verdict

# A minute of the pool is some 250 000 units; a prompt of 16 000 tokens cannot be fair to 3 % of a third of that.
MINUTE_TOO_SHORT = frozenset({"long_prompts"})
SHARE_LOSS_MAX, UNFAIR_MAX, GOODPUT_LOSS_MAX, WAIT_OVER_STRICT_MAX, UNUSED_MAX = 0.03, 0.01, 0.01, 1.1, 0.01


@dataclass(frozen=True, slots=True)
class Campaign:
    """The fair queue's figures by pattern; at `poisson` and at low load, every policy's under the same traffic for the
    same time."""

    floor: int
    saturated: Sequence[Figures]
    poisson: Mapping[str, Figures]
    low_load: Mapping[str, Figures]
    lone: Figures

    @property
    def fair(self) -> Sequence[Figures]:
        """All runs of the fair queue."""
        return [*self.saturated, self.low_load["fair"], self.lone]


def run(floor: int, seed: int, steps: int) -> Campaign:
    """Simulate. Raises `BoundBroken`."""
    saturated = [simulate(name, sources, floor, seed, steps) for name, sources in SATURATED.items()]
    low_load = simulate("low_load", LOW_LOAD, floor, seed, steps)
    poisson = next(one for one in saturated if one.pattern == "poisson")
    return Campaign(
        floor, saturated, _beside(poisson, floor, seed), _beside(low_load, floor, seed),
        simulate("lone", LONE, floor, seed, steps),
    )  # fmt: skip


def _beside(fair: Figures, floor: int, seed: int) -> Mapping[str, Figures]:
    sources = {**SATURATED, "low_load": LOW_LOAD}[fair.pattern]
    until_us = int(fair.simulated_s * SECOND_US)
    rivals = {"strict": strict(policy(floor)), "fifo": fifo(policy(floor))}
    others = {name: simulate_rival(fair.pattern, sources, rival, seed, until_us) for name, rival in rivals.items()}
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
    fair, strict_, fifo_ = (campaign.low_load[name] for name in ("fair", "strict", "fifo"))
    wait = fair.waits_s["priority"][1] / strict_.waits_s["priority"][1]
    losses = [1 - runs["fair"].units_per_s / runs["fifo"].units_per_s for runs in (campaign.poisson, campaign.low_load)]
    tokens = 1 - fair.tokens_per_s / fifo_.tokens_per_s
    return [
        Verdict("investors' p95 wait at low load over strict priority's", wait, WAIT_OVER_STRICT_MAX, "times"),
        Verdict("goodput lost against FIFO", max(*losses, tokens), GOODPUT_LOSS_MAX, "of it"),
        Verdict("share of open under strict priority", campaign.poisson["strict"].open_share, 0.01, ""),
        Verdict("slots unused by a lone tenant", 1 - campaign.lone.busy_share, UNUSED_MAX, "of them"),
    ]
