"""One group's line: a virtual token counter per owner (VTC: Sheng et al., "Fairness in Serving Large Language Models",
OSDI '24). The owner with the lowest counter is next; of equal ones the one whose ask is older, then by request id.

A counter rises by charge / weight, in integers of 1/2²⁰ unit; an ask as a whole is charged less than one such integer
too little, however often its charge was corrected. The line's `clock` is the lowest counter among those who wait, as of
the last dispatch, and never falls. An owner that comes back is lifted to it: it saves nothing up by staying away.

Skipping: an owner none of whose asks the free slots may serve is passed over without blocking anybody, and is lifted to
the counter of the one that is served instead. So it keeps at most the credit of what others are served between two of
its own chances, and cannot take a pool for itself after an hour in which its only upstream was away. Hence, at every
dispatch of f, V_f ≤ V_g for each g that waits, and for any two owners that wait throughout
|W_f/w_f − W_g/w_g| ≤ 2·(U_f/w_f + U_g/w_g), U the largest total that an owner has in flight (each ask at the larger of
estimate and truth); the proof is the one of `fair_queue`. For two of equal weight: |W_f − W_g| ≤ 2·(U_f + U_g).
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Set

from gateway.priority.owner import Arrival, Owner, arrival
from gateway.priority.types import Ask, LineState, OwnerState

SCALE = 1 << 20
# Counters are moved back to 0 from here on; far above what is in flight, far below 2⁵³.
CLOCK_MAX = 1 << 50
# Idle owners that are remembered because they are ahead. Beyond that the one that is least ahead is forgotten.
IDLE_MAX = 4_096

_Place = tuple[int, int, str, str]


def scaled(charge: int, weight: int) -> int:
    """What a charge adds to a counter."""
    return charge * SCALE // weight


class Line:
    """The asks of one group that wait, and the counters of their owners. All operations take O(log n) comparisons in n
    owners or asks, and one step per owner that is passed over."""

    def __init__(self, state: LineState) -> None:
        self.clock = state.clock
        self.waiting = 0
        self.charge = 0  # of all that wait
        self._owners = {one.owner: Owner(one.owner, one.counter) for one in state.owners}
        self._order: list[_Place] = []  # owners that wait, sorted
        # Owners with nothing in the line or in a slot, sorted; only those ahead of the clock, which would lift others.
        self._idle = sorted((one.counter, one.owner) for one in state.owners if one.counter > state.clock)
        self._upstreams: Counter[tuple[str, ...]] = Counter()

    def state(self) -> LineState:
        """What has to be known of the past, besides the asks."""
        names = sorted(self._owners)
        return LineState(self.clock, tuple(OwnerState(name, self._owners[name].counter) for name in names))

    def waiting_of(self, owner: str) -> int:
        """How many asks of an owner wait."""
        known = self._owners.get(owner)
        return 0 if known is None else known.waiting

    def resume(self, ask: Ask) -> None:
        """Note an ask that runs, when a line begins from a stored state."""
        owner = self._known(ask.owner)
        self._leave(owner)
        owner.running += 1

    def put(self, ask: Ask, *, lift: bool = True) -> None:
        """Let an ask wait. `lift` False: as it waited before, when a line begins from a stored state."""
        owner = self._known(ask.owner)
        self._leave(owner)
        if lift and not owner.waiting:
            owner.counter = max(owner.counter, self.clock)
        owner.put(ask)
        self._enter(owner)
        self._count(ask, 1)

    def remove(self, ask: Ask) -> None:
        """Take an ask out that leaves unserved."""
        owner = self._owners[ask.owner]
        self._leave(owner)
        owner.remove(ask)
        self._enter(owner)
        self._count(ask, -1)

    def first(self, free: Set[str]) -> Ask | None:
        """The ask that is next for the upstreams `free`."""
        if all(free.isdisjoint(upstreams) for upstreams in self._upstreams):
            return None
        found = (self._owners[place[3]].first(free) for place in self._order)
        return next(ask for ask in found if ask is not None)

    def serve(self, ask: Ask) -> None:
        """Give its slot to the ask that `first` told, and charge the estimate."""
        owner = self._owners[ask.owner]
        self._lift_passed(owner.counter)
        self._leave(owner)
        owner.remove(ask)
        owner.running += 1
        owner.counter += scaled(ask.charge, ask.weight)
        self._enter(owner)
        self._count(ask, -1)
        self.clock = max(self.clock, self._order[0][0] if self._order else owner.counter)
        self._tidy()

    def correct(self, ask: Ask, before: int, now: int, *, ends: bool) -> None:
        """Charge `now` in place of `before` for an ask that runs, and give up its slot if it `ends`."""
        owner = self._owners[ask.owner]
        self._leave(owner)
        owner.counter += scaled(now, ask.weight) - scaled(before, ask.weight)
        owner.running -= ends
        self._enter(owner)

    def ahead(self, ask: Ask) -> list[Ask]:
        """The asks that would be taken before a waiting `ask`, in no order, if nobody else comes, all may be served
        where a slot is free, and estimates hold. One step for each of them."""
        starts = {start[2]: start for start, _ in self._starts(self._owners[ask.owner])}
        own = starts[ask.request_id]
        found = []
        for place in self._order:
            if place[:3] > own:
                break
            for start, one in self._starts(self._owners[place[3]]):
                if start >= own:
                    break
                found.append(one)
        return found

    def _starts(self, owner: Owner) -> Iterator[tuple[tuple[int, int, str], Ask]]:
        """The owner's asks, with the place in the order that the owner has when each is its next."""
        counter = owner.counter
        for ask in owner.in_order():
            yield (counter, ask.arrived_us, ask.request_id), ask
            counter += scaled(ask.charge, ask.weight)

    def _known(self, name: str) -> Owner:
        owner = self._owners.get(name)
        if owner is None:
            owner = self._owners[name] = Owner(name, self.clock)
        return owner

    def _lift_passed(self, counter: int) -> None:
        """Lift those below the counter that is served: the free slots could serve none of theirs."""
        passed = self._order[: bisect_left(self._order, (counter,))]
        for place in passed:
            owner = self._owners[place[3]]
            self._leave(owner)
            owner.counter = counter
            self._enter(owner)

    def _leave(self, owner: Owner) -> None:
        """Take an owner out of the order before what orders it changes."""
        if owner.waiting:
            del self._order[bisect_left(self._order, self._place(owner))]
        elif not owner.running and owner.counter > self.clock:
            del self._idle[bisect_left(self._idle, (owner.counter, owner.name))]

    def _enter(self, owner: Owner) -> None:
        if owner.waiting:
            insort(self._order, self._place(owner))
        elif not owner.running and owner.counter > self.clock:
            insort(self._idle, (owner.counter, owner.name))
        elif not owner.running:
            del self._owners[owner.name]

    def _place(self, owner: Owner) -> _Place:
        head = owner.first()
        assert head is not None
        arrived: Arrival = arrival(head)
        return (owner.counter, *arrived, owner.name)

    def _count(self, ask: Ask, number: int) -> None:
        self.waiting += number
        self.charge += number * ask.charge
        self._upstreams[ask.upstreams] += number
        if not self._upstreams[ask.upstreams]:
            del self._upstreams[ask.upstreams]

    def _tidy(self) -> None:
        """Forget idle owners that the clock has reached, since they would be lifted to it; keep counters small."""
        reached = max(bisect_left(self._idle, (self.clock + 1,)), len(self._idle) - IDLE_MAX)
        for _, name in self._idle[:reached]:
            del self._owners[name]
        del self._idle[:reached]
        if self.clock >= CLOCK_MAX:
            self._rebase()

    def _rebase(self) -> None:
        by, self.clock = self.clock, 0
        for owner in self._owners.values():
            owner.counter -= by
        self._order = [(place[0] - by, *place[1:]) for place in self._order]
        self._idle = [(counter - by, name) for counter, name in self._idle]
