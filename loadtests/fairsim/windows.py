"""What was charged in aligned windows of time, and who was backlogged throughout each."""

from collections import Counter
from dataclasses import dataclass, field

from gateway.priority.types import Ask, Group

MAIN: tuple[Group, Group] = ("priority", "open")
Peer = tuple[str, Group, tuple[str, ...]]
"""An owner in a group, with the upstreams that may serve it: only owners alike in these have a right to the same."""


@dataclass(slots=True)
class Window:
    """Charges by group and owner. `owners` waited all the time; `contended`: both groups did, and
    wherever a slot was free."""

    contended: bool
    owners: set[Peer]
    by_group: Counter[Group] = field(default_factory=Counter)
    by_owner: Counter[str] = field(default_factory=Counter)

    @property
    def open_share(self) -> float:
        """The part of both groups' charge that is open's."""
        both = self.by_group["priority"] + self.by_group["open"]
        return self.by_group["open"] / both if both else 0.0


class Windows:
    """Windows of `width_us`; the last, unfinished one is left out."""

    def __init__(self, width_us: int) -> None:
        self.done: list[Window] = []
        self._width_us = width_us
        self._ends_us = width_us
        self._waiting: Counter[Peer] = Counter()
        self._of_group: Counter[Group] = Counter()
        self._now = Window(contended=False, owners=set())

    def advance(self, now_us: int) -> None:
        """Close the windows that ended before `now_us`."""
        while now_us >= self._ends_us:
            self.done.append(self._now)
            self._ends_us += self._width_us
            waiting = {peer for peer, number in self._waiting.items() if number}
            self._now = Window(all(self._of_group[group] for group in MAIN), waiting)

    def waits(self, ask: Ask) -> None:
        """An ask waits."""
        self._waiting[ask.owner, ask.group, ask.upstreams] += 1
        self._of_group[ask.group] += 1

    def leaves(self, ask: Ask) -> None:
        """An ask waits no more."""
        peer = (ask.owner, ask.group, ask.upstreams)
        self._waiting[peer] -= 1
        self._of_group[ask.group] -= 1
        if not self._waiting[peer]:
            self._now.owners.discard(peer)

    def uncontended(self) -> None:
        """A group had nothing that a free slot could serve."""
        self._now.contended = False

    def check(self) -> None:
        """Note who waits no more, when all free slots are given."""
        if self._now.contended and not all(self._of_group[group] for group in MAIN):
            self._now.contended = False

    def charged(self, ask: Ask, units: int) -> None:
        """Charge, or give back."""
        self._now.by_group[ask.group] += units
        self._now.by_owner[ask.owner] += units
