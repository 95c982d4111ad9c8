"""The fair queue under 10⁵ steps of every pattern of traffic; the simulator checks the bound at each of them."""

import dataclasses
from functools import cache

import pytest

from gateway.priority.bound import BoundBroken, FloorBound
from gateway.priority.fair_queue import FairQueue
from gateway.priority.types import Group, Taken
from loadtests.fairsim.campaign import MINUTE_TOO_SHORT, Campaign, judge, run
from loadtests.fairsim.drawing import draw
from loadtests.fairsim.figures import jain, simulate
from loadtests.fairsim.patterns import LOW_LOAD, SATURATED
from loadtests.fairsim.simulation import Simulation, policy
from tests.gateway.priority.asking import an_ask

FLOOR, SEED, STEPS = 3_000, 20261124, 100_000


@cache
def campaign() -> Campaign:
    """All patterns once for all tests: about 15 seconds. Raises `BoundBroken`."""
    return run(FLOOR, SEED, STEPS)


@pytest.mark.parametrize("pattern", SATURATED)
def test_bound_holds_at_every_step_and_no_slot_idles(pattern: str) -> None:
    row = next(one for one in campaign().saturated if one.pattern == pattern)
    assert row.steps >= STEPS
    assert 0 < row.shortfall_over_bound <= 1
    assert row.idle_backlogged_slot_s == 0
    assert row.jain is None or row.jain >= 0.99


@pytest.mark.parametrize("pattern", sorted(set(SATURATED) - MINUTE_TOO_SHORT))
def test_open_gets_its_floor_in_every_minute_in_which_both_groups_are_backlogged(pattern: str) -> None:
    row = next(one for one in campaign().saturated if one.pattern == pattern)
    assert len(row.share_60s) >= 8
    assert min(row.share_60s) >= 0.97 * FLOOR / 10_000


def test_investor_waits_at_low_load_hardly_longer_than_under_strict_priority() -> None:
    runs = campaign().low_load
    assert runs["fair"].waits_s["priority"][1] <= 1.1 * runs["strict"].waits_s["priority"][1]


def test_goodput_is_that_of_first_come_first_served() -> None:
    runs = campaign().even
    assert runs["fair"].units_per_s >= 0.99 * runs["fifo"].units_per_s


def test_strict_priority_would_leave_open_nothing() -> None:
    assert campaign().poisson["strict"].open_share <= 0.005
    assert campaign().poisson["fair"].open_share == pytest.approx(0.3, abs=0.003)


def test_lone_tenant_gets_every_slot() -> None:
    assert campaign().lone.busy_share >= 0.99
    assert campaign().lone.open_share == 1


def test_every_target_of_the_simulator_is_met() -> None:
    assert [one.line() for one in judge(campaign()) if not one.passed] == []


def test_drawing_shows_every_pattern() -> None:
    drawn = draw(campaign().saturated, campaign().low_load, FLOOR / 10_000)
    assert all(f">{pattern}: share of open" in drawn for pattern in SATURATED)


def test_simulation_is_the_same_for_the_same_seed() -> None:
    def order(seed: str) -> list[str]:
        return Simulation(LOW_LOAD, FairQueue(policy(FLOOR)), seed).run(steps=5_000).ids_taken

    assert order("1") == order("1")
    assert order("1") != order("2")
    first, again = (simulate("hog", SATURATED["hog"], FLOOR, SEED, 5_000) for _ in range(2))
    assert dataclasses.asdict(first) == dataclasses.asdict(again)


def test_jain_index_is_one_for_equals_and_a_part_for_one_who_has_all() -> None:
    assert jain([5, 5, 5]) == 1
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("starved", ["open", "priority"])
def test_starving_a_group_breaks_the_bound(starved: Group) -> None:
    bound = FloorBound(FLOOR)
    bound.taken(Taken(an_ask("first", starved), "a", contended=True), 100)
    other: Group = "priority" if starved == "open" else "open"
    with pytest.raises(BoundBroken):
        for n in range(100):
            bound.taken(Taken(an_ask(f"r{n}", other), "a", contended=True), 100)
            bound.completed(f"r{n}", 100)


def test_bound_refuses_a_charge_above_what_it_was_told() -> None:
    bound = FloorBound(FLOOR)
    bound.taken(Taken(an_ask("r"), "a", contended=True), 100)
    with pytest.raises(ValueError, match="at most"):
        bound.corrected("r", 101)
