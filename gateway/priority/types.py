"""Values of the fair queue: what is asked and granted, its policy, and its whole state as plain structs.

Charges are integers: 1 per input token, 2 per output token (`charge`). Times are microseconds on one clock of the
region, which the caller reads. A floor is in parts per 10 000.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

Group = Literal["priority", "open", "internal"]
GROUPS: tuple[Group, ...] = ("priority", "open", "internal")
WHOLE = 10_000
WEIGHT_MAX = 1_000
INPUT_UNITS, OUTPUT_UNITS = 1, 2
# What keeps every counter in 64 bits, and in the 53 bits that other languages read from JSON.
CHARGE_MAX = 1 << 30


def charge(input_tokens: int, output_tokens: int) -> int:
    """What tokens weigh in the queue: writing one costs an engine about twice what reading one does (VTC, OSDI '24)."""
    return INPUT_UNITS * input_tokens + OUTPUT_UNITS * output_tokens


class Ask(msgspec.Struct, frozen=True):
    """A request that waits for a slot. `owner` is the beneficial owner, whichever of its tenants asks (R8), `weight`
    the owner's weight in its group (1 to 1000), `charge` the estimate, `upstreams` those that may serve it."""

    request_id: str
    owner: str
    group: Group
    weight: int
    charge: int
    arrived_us: int
    upstreams: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.weight <= WEIGHT_MAX or not 0 <= self.charge <= CHARGE_MAX or not self.upstreams:
            raise ValueError(f"ask {self.request_id}: weight, charge or upstreams mean nothing")


class Bounds(msgspec.Struct, frozen=True):
    """How many asks of a group may wait, and how long."""

    waiting_max: int
    wait_us_max: int


class Policy(msgspec.Struct, frozen=True):
    """`floor`: the part of the pool's service that is the open group's when it asks for it (R4: at least 3 000, which
    is checked where policies are saved)."""

    floor: int
    priority: Bounds
    open: Bounds
    internal: Bounds

    def __post_init__(self) -> None:
        if not 0 < self.floor < WHOLE:
            raise ValueError(f"a floor of {self.floor} leaves one of the groups without any share")

    def bounds(self, group: Group) -> Bounds:
        """The bounds of a group."""
        bounds: Bounds = getattr(self, group)
        return bounds


@dataclass(frozen=True, slots=True)
class Taken:
    """An ask that has its slot. `contended`: both `priority` and `open` had an ask that the free slots could serve."""

    ask: Ask
    upstream: str
    contended: bool


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where an ask stands in its group (1: the group's next) and how long it will wait, if nobody else comes and
    estimates hold."""

    position: int
    wait_ms: int


class QueueFull(Exception):
    """The ask found no place. `waiting`: how many of its group wait."""

    def __init__(self, ask: Ask, waiting: int) -> None:
        super().__init__(f"{ask.group}: {waiting} wait, no place for another ask of {ask.owner}")
        self.ask = ask
        self.waiting = waiting


class Running(msgspec.Struct, frozen=True):
    """An ask in its slot, and what it is charged so far."""

    ask: Ask
    charge: int


class OwnerState(msgspec.Struct, frozen=True):
    """A counter of an owner, in units divided by weight, times `SCALE`."""

    owner: str
    counter: int


class LineState(msgspec.Struct, frozen=True):
    """What a group remembers of the past."""

    clock: int
    owners: tuple[OwnerState, ...]


class QueueState(msgspec.Struct, frozen=True):
    """All that a new dispatcher needs in order to decide as the old one would have."""

    owed: int
    priority: LineState
    open: LineState
    internal: LineState
    waiting: tuple[Ask, ...]
    running: tuple[Running, ...]
