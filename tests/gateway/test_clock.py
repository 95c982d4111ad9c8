"""The clock of decisions never runs backwards, and says when it cannot be believed."""

import pytest

from gateway.clock import BEHIND_US_MAX, Clock

NOON = 1_800_000_000_000_000


class Machine:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> int:
        return self.time


def test_small_step_back_reads_as_the_highest_stored_time() -> None:
    machine = Machine()
    clock = Clock(machine)
    clock.learn(NOON)
    machine.time -= BEHIND_US_MAX
    assert clock.now() == NOON
    assert not clock.behind


def test_more_than_two_seconds_behind_what_is_stored_cannot_be_believed() -> None:
    machine = Machine()
    clock = Clock(machine)
    clock.learn(NOON + BEHIND_US_MAX + 1)
    assert clock.behind
    machine.time += 1
    assert not clock.behind


@pytest.mark.parametrize("stored", [0, NOON - 1])
def test_clock_that_is_ahead_of_the_book_is_its_own_measure(stored: int) -> None:
    clock = Clock(Machine())
    clock.learn(stored)
    assert clock.now() == NOON and not clock.behind


def test_lower_stored_time_does_not_lower_the_floor() -> None:
    clock = Clock(lambda: 0)
    clock.learn(NOON)
    clock.learn(1)
    assert clock.now() == NOON and clock.behind


def test_small_step_back_reads_as_the_time_already_seen() -> None:
    machine = Machine()
    clock = Clock(machine)
    machine.time += 1_000_000
    assert clock.now() == NOON + 1_000_000
    machine.time -= BEHIND_US_MAX
    assert clock.now() == NOON + 1_000_000


def test_clock_that_ran_ahead_and_was_corrected_is_not_held_up_there() -> None:
    machine = Machine()
    clock = Clock(machine)
    clock.learn(NOON)
    machine.time += 3_600_000_000
    assert clock.now() == NOON + 3_600_000_000
    machine.time = NOON + 1
    assert clock.now() == NOON + 1
