"""The fair queue under whatever happens in whatever order: 2,000 histories beside a plain model."""

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.priority.bound import FloorBound
from gateway.priority.fair_queue import FairQueue
from gateway.priority.types import GROUPS, Ask, Bounds, Group, Policy, QueueFull, QueueState, Taken
from tests.gateway.priority.asking import a_queue, an_ask, many, served

CASES = 2_000
SLOTS = {"a": 2, "b": 1}
PLACES = (("a",), ("b",), ("a", "b"), ("b", "a"))
WAITING_MAX, WAIT_US_MAX = 12, 40
STEP = st.tuples(st.integers(0, 9), st.integers(0, 255), st.integers(0, 255))


def a_policy(floor: int) -> Policy:
    bounds = Bounds(WAITING_MAX, WAIT_US_MAX)
    return Policy(floor, bounds, bounds, bounds)


def copied(queue: FairQueue) -> FairQueue:
    """A dispatcher that goes on from what the old one wrote down."""
    text = msgspec.json.encode(queue.state())
    return FairQueue(queue.policy, msgspec.json.decode(text, type=QueueState))


class World:
    """The queue, what is known of its asks apart from it, and a twin that is begun anew before every decision."""

    def __init__(self, floor: int, *, exact: bool) -> None:
        self.queue = FairQueue(a_policy(floor))
        self.bound = FloorBound(floor)
        self.exact = exact
        self.waiting: dict[str, Ask] = {}
        self.running: dict[str, tuple[str, int]] = {}  # upstream and truth
        self.ended: set[str] = set()
        self.now = 0

    def step(self, kind: int, one: int, other: int) -> None:
        self.now += one % 3
        if kind < 4:
            self.come(one, other)
        elif kind < 7:
            self.take(one)
        elif kind == 7:
            self.leave(one)
        else:
            self.end(one, other, ends=kind == 9)
        assert {group: self.queue.waiting(group) for group in GROUPS} == {
            group: sum(ask.group == group for ask in self.waiting.values()) for group in GROUPS
        }

    def come(self, one: int, other: int) -> None:
        group: Group = GROUPS[one % 5 % 3]
        name = f"r{len(self.waiting) + len(self.running) + len(self.ended)}"
        at = self.now - other % 2
        ask = an_ask(
            name, group, f"o{other % 4}", at=at, charge=other, weight=1 + other % 5, upstreams=PLACES[one % 7 % 4]
        )
        try:
            assert self.queue.enqueue(ask)
        except QueueFull:
            of_group = [waiting for waiting in self.waiting.values() if waiting.group == group]
            own = sum(waiting.owner == ask.owner for waiting in of_group)
            assert own >= WAITING_MAX - len(of_group)
            return
        assert not self.queue.enqueue(ask)
        self.waiting[name] = ask

    def take(self, one: int) -> None:
        busy = [upstream for upstream, _ in self.running.values()]
        free = tuple(name for name, number in SLOTS.items() if busy.count(name) < number)[:: 1 if one % 2 else -1]
        able = [ask for ask in self.waiting.values() if not set(free).isdisjoint(ask.upstreams)]
        twin = copied(self.queue)
        taken = self.queue.take(free)
        assert twin.take(free) == taken
        assert twin.state() == self.queue.state()
        if taken is None:
            assert not able, "a slot idles while an ask waits for it"
            return
        assert taken.ask in able
        assert taken.upstream in free
        assert taken.upstream in taken.ask.upstreams
        self.check_groups(taken, {ask.group for ask in able})
        earlier = [ask for ask in able if (ask.group, ask.owner) == (taken.ask.group, taken.ask.owner)]
        assert taken.ask == min(earlier, key=lambda ask: (ask.arrived_us, ask.request_id))
        del self.waiting[taken.ask.request_id]
        truth = taken.ask.charge if self.exact else one
        self.running[taken.ask.request_id] = (taken.upstream, truth)
        self.bound.taken(taken, truth)

    def check_groups(self, taken: Taken, able: set[Group]) -> None:
        assert taken.contended == ({"priority", "open"} <= able)
        assert taken.ask.group != "internal" or able == {"internal"}

    def leave(self, one: int) -> None:
        if one % 4 == 0:
            gone = self.queue.expire(self.now)
            assert {ask.request_id for ask in gone} == {
                name for name, ask in self.waiting.items() if ask.arrived_us + WAIT_US_MAX <= self.now
            }
        else:
            name = f"r{one % 40}"
            ask = self.queue.cancel(name)
            assert ask == self.waiting.get(name)
            gone = [] if ask is None else [ask]
        for ask in gone:
            del self.waiting[ask.request_id]
            self.ended.add(ask.request_id)

    def end(self, one: int, other: int, *, ends: bool) -> None:
        if not self.running:
            return
        name = sorted(self.running)[one % len(self.running)]
        truth = self.running[name][1]
        if ends:
            assert self.queue.complete(name, truth)
            self.bound.completed(name, truth)
            del self.running[name]
            self.ended.add(name)
        elif not self.exact:
            charge = min(other, truth)
            assert self.queue.correct(name, charge)
            self.bound.corrected(name, charge)


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1_000, 9_000), st.booleans(), st.lists(STEP, max_size=60))
def test_bound_holds_nothing_is_lost_and_a_new_dispatcher_decides_the_same(
    floor: int, exact: bool, steps: list[tuple[int, int, int]]
) -> None:
    world = World(floor, exact=exact)
    for step in steps:
        world.step(*step)
    if exact:
        assert world.bound.shortfall_max <= 10_000 * (world.bound.single_max + world.bound.in_flight_max / 8)
    for name, (_, truth) in list(world.running.items()):
        world.queue.complete(name, truth)
    left = set()
    while (taken := world.queue.take(tuple(SLOTS))) is not None:
        world.queue.complete(taken.ask.request_id, taken.ask.charge)
        left.add(taken.ask.request_id)
    assert left == set(world.waiting)


@settings(max_examples=200, deadline=None)
@given(st.permutations(range(24)))
def test_order_does_not_depend_on_which_process_spoke_first(order: list[int]) -> None:
    asks = [*many(12, "open", "x"), *many(6, "open", "y", charge=70), *many(6, "priority", "z", weight=3)]
    straight, shuffled = a_queue(*asks), a_queue(*(asks[number] for number in order))
    assert served(straight, 24) == served(shuffled, 24)
