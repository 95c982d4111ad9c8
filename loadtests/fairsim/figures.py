"""What a run came to, in figures."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.priority.bound import FloorBound
from gateway.priority.fair_queue import FairQueue
from gateway.priority.types import GROUPS, Group
from loadtests.fairsim.patterns import Sources
from loadtests.fairsim.pool import SLOTS
from loadtests.fairsim.rivals import Scheduler
from loadtests.fairsim.simulation import Ran, Simulation, policy
from loadtests.fairsim.traffic import SECOND_US
from loadtests.fairsim.windows import Window

_PERCENTS = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Figures:
    """One pattern under one policy. Shares are of open, per window in which both groups were backlogged throughout;
    `jain` is the least index over owners that waited throughout ten minutes, `owners_apart` their largest
    |W_f − W_g| / 2U; both None where there were none. Of the bound: `shortfall` is the most that a group was short of
    its share, in units, `in_flight_max` U, `single_max` the largest single charge; 0 for other policies."""

    pattern: str
    steps: int
    simulated_s: float
    share_60s: Sequence[float]
    share_600s: Sequence[float]
    open_share: float
    jain: float | None
    owners_apart: float | None
    waits_s: Mapping[Group, Sequence[float]]
    idle_backlogged_slot_s: float
    busy_share: float
    units_per_s: float
    tokens_per_s: float
    ended: Mapping[str, int]
    shortfall: float
    shortfall_over_bound: float
    in_flight_max: int
    single_max: int

    @property
    def share_60s_min(self) -> float | None:
        """The worst minute."""
        return min(self.share_60s, default=None)


def simulate(pattern: str, sources: Sources, floor: int, seed: int, steps: int) -> Figures:
    """The fair queue under `sources` for `steps`. Raises `BoundBroken`."""
    bound = FloorBound(floor)
    ran = Simulation(sources, FairQueue(policy(floor)), str(seed), bound).run(steps)
    return figures(pattern, ran, bound)


def simulate_rival(pattern: str, sources: Sources, rival: Scheduler, seed: int, until_us: int) -> Figures:
    """Another policy under the same traffic, for as long."""
    return figures(pattern, Simulation(sources, rival, str(seed)).run(until_us=until_us), FloorBound(1))


def figures(pattern: str, ran: Ran, bound: FloorBound) -> Figures:
    """Everything from a run and what was watched of it."""
    seconds = ran.now_us / SECOND_US
    known = bound.in_flight_max > 0
    return Figures(
        pattern, ran.steps, seconds,
        [one.open_share for one in ran.minutes.done if one.contended],
        [one.open_share for one in ran.tens.done if one.contended],
        _overall(ran.minutes.done),
        min(_over_owners(ran.tens.done, jain), default=None),
        max(_over_owners(ran.tens.done, spread), default=0) / (2 * bound.in_flight_max) if known else None,
        {group: percentiles(ran.waits_us[group]) for group in GROUPS if ran.waits_us[group]},
        ran.idle_backlogged_us / SECOND_US,
        ran.busy_us / ran.now_us / SLOTS,
        ran.delivered / seconds,
        ran.tokens / seconds,
        dict(sorted(ran.ended.items())),
        bound.shortfall_max / 10_000,
        bound.shortfall_max / bound.allowed if known else 0.0,
        bound.in_flight_max,
        bound.single_max,
    )  # fmt: skip


def jain(amounts: Sequence[int]) -> float:
    """Jain's index: 1 where all have the same, 1/n where one has all (Jain, Chiu and Hawe, DEC TR-301, 1984)."""
    squares = sum(one * one for one in amounts)
    return sum(amounts) ** 2 / (len(amounts) * squares) if squares else 1.0


def spread(amounts: Sequence[int]) -> int:
    """The largest less the least."""
    return max(amounts) - min(amounts)


def percentiles(waits_us: Sequence[int]) -> list[float]:
    """p50, p95, p99 in seconds."""
    ordered = sorted(waits_us)
    return [ordered[len(ordered) * percent // 100] / SECOND_US for percent in _PERCENTS]


def _overall(windows: Sequence[Window]) -> float:
    """Open's share of all contended windows together; of all windows where none is contended."""
    chosen = [one for one in windows if one.contended] or windows
    served = [sum(one.by_group[group] for one in chosen) for group in ("priority", "open")]
    return served[1] / sum(served) if sum(served) else 0.0


def _over_owners(windows: Sequence[Window], measure: Callable[[Sequence[int]], float]) -> list[float]:
    """`measure` of the charges of owners of one group and the same upstreams that waited throughout, for each window
    in which there are two or more. Owners of a group have equal weights in all patterns."""
    found = []
    for window in windows:
        alike: dict[object, list[int]] = defaultdict(list)
        for owner, group, upstreams in window.owners:
            alike[group, upstreams].append(window.by_owner[owner])
        found += [measure(amounts) for amounts in alike.values() if len(amounts) > 1]
    return found
