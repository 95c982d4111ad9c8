"""Asks and queues for the tests of priority."""

from gateway.priority.fair_queue import FairQueue
from gateway.priority.types import Ask, Bounds, Group, Policy, Taken

BOUNDS = Bounds(waiting_max=10_000, wait_us_max=60_000_000)
POLICY = Policy(3_000, BOUNDS, BOUNDS, BOUNDS)
HERE = ("a",)


def an_ask(
    request_id: str,
    group: Group = "open",
    owner: str = "owner",
    *,
    at: int = 0,
    charge: int = 100,
    weight: int = 1,
    upstreams: tuple[str, ...] = HERE,
) -> Ask:
    return Ask(request_id, owner, group, weight, charge, at, upstreams)


def a_queue(*asks: Ask, policy: Policy = POLICY) -> FairQueue:
    queue = FairQueue(policy)
    for ask in asks:
        assert queue.enqueue(ask)
    return queue


def many(number: int, group: Group = "open", owner: str = "owner", *, charge: int = 100, weight: int = 1) -> list[Ask]:
    return [an_ask(f"{owner}-{n:04d}", group, owner, at=n, charge=charge, weight=weight) for n in range(number)]


def taken(queue: FairQueue, free: tuple[str, ...] = HERE) -> Taken:
    one = queue.take(free)
    assert one is not None
    return one


def served(queue: FairQueue, number: int) -> list[Ask]:
    """The next asks of one slot, each completed at its estimate before the next is taken."""
    asks = []
    for _ in range(number):
        ask = taken(queue).ask
        queue.complete(ask.request_id, ask.charge)
        asks.append(ask)
    return asks
