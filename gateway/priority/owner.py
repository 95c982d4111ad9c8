"""One owner's asks in a group, in order of arrival, apart by where they may be served."""

from bisect import bisect_left, insort
from collections.abc import Set
from heapq import merge

from gateway.priority.types import Ask

Arrival = tuple[int, str]


def arrival(ask: Ask) -> Arrival:
    """What asks of equal right are ordered by: the same whichever process heard of them first."""
    return ask.arrived_us, ask.request_id


class Owner:
    """`counter` is what it was served divided by its weight, times `SCALE`; `running` counts its asks in slots."""

    __slots__ = ("_asks", "counter", "name", "running", "waiting")

    def __init__(self, name: str, counter: int) -> None:
        self.name = name
        self.counter = counter
        self.running = 0
        self.waiting = 0
        self._asks: dict[tuple[str, ...], list[Ask]] = {}

    def put(self, ask: Ask) -> None:
        """Add an ask; mostly the latest, but processes do not hear of asks in order."""
        asks = self._asks.setdefault(ask.upstreams, [])
        if asks and arrival(ask) < arrival(asks[-1]):
            insort(asks, ask, key=arrival)
        else:
            asks.append(ask)
        self.waiting += 1

    def remove(self, ask: Ask) -> None:
        """Take an ask out that is in."""
        asks = self._asks[ask.upstreams]
        del asks[bisect_left(asks, arrival(ask), key=arrival)]
        if not asks:
            del self._asks[ask.upstreams]
        self.waiting -= 1

    def first(self, free: Set[str] | None = None) -> Ask | None:
        """The oldest ask that one of the upstreams `free` may serve (None: any upstream), if there is one."""
        heads = [asks[0] for upstreams, asks in self._asks.items() if free is None or not free.isdisjoint(upstreams)]
        if len(heads) < 2:
            return heads[0] if heads else None
        return min(heads, key=arrival)

    def in_order(self) -> list[Ask]:
        """All its asks, the oldest first."""
        return list(merge(*self._asks.values(), key=arrival))
