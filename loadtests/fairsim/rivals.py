"""What the fair queue is compared with, in the simulator only: first come first served, and strict priority."""

from bisect import insort
from collections.abc import Sequence
from typing import Protocol

from gateway.priority.owner import arrival
from gateway.priority.types import GROUPS, Ask, Group, Policy, QueueFull, Taken


class Scheduler(Protocol):
    """What a simulation asks of a queue; `FairQueue` says what each means."""

    def enqueue(self, ask: Ask) -> bool: ...
    def cancel(self, request_id: str) -> Ask | None: ...
    def expire(self, now_us: int) -> list[Ask]: ...
    def take(self, free: Sequence[str]) -> Taken | None: ...
    def correct(self, request_id: str, charge: int) -> bool: ...
    def complete(self, request_id: str, charge: int) -> bool: ...


class Ordered:
    """A queue that knows no charges. Groups of a lower rank come first; of equal rank the oldest ask."""

    def __init__(self, policy: Policy, ranks: dict[Group, int]) -> None:
        self._policy = policy
        self._ranks = ranks
        self._lines: dict[int, list[Ask]] = {rank: [] for rank in sorted(set(ranks.values()))}
        self._waiting: dict[str, Ask] = {}
        self._counts: dict[Group, int] = dict.fromkeys(GROUPS, 0)

    def enqueue(self, ask: Ask) -> bool:
        if self._counts[ask.group] >= self._policy.bounds(ask.group).waiting_max:
            raise QueueFull(ask, self._counts[ask.group])
        insort(self._lines[self._ranks[ask.group]], ask, key=arrival)
        self._waiting[ask.request_id] = ask
        self._counts[ask.group] += 1
        return True

    def cancel(self, request_id: str) -> Ask | None:
        ask = self._waiting.pop(request_id, None)
        if ask is not None:
            self._lines[self._ranks[ask.group]].remove(ask)
            self._counts[ask.group] -= 1
        return ask

    def expire(self, now_us: int) -> list[Ask]:
        gone = []
        for line in self._lines.values():
            while line and line[0].arrived_us <= now_us - self._policy.bounds(line[0].group).wait_us_max:
                gone.append(line[0])
                self.cancel(line[0].request_id)
        return gone

    def take(self, free: Sequence[str]) -> Taken | None:
        for line in self._lines.values():
            ask = next((one for one in line if not set(free).isdisjoint(one.upstreams)), None)
            if ask is not None:
                self.cancel(ask.request_id)
                return Taken(ask, next(name for name in free if name in ask.upstreams), contended=False)
        return None

    def correct(self, request_id: str, charge: int) -> bool:
        return True

    def complete(self, request_id: str, charge: int) -> bool:
        return True


def fifo(policy: Policy) -> Ordered:
    """First come, first served."""
    return Ordered(policy, dict.fromkeys(GROUPS, 0))


def strict(policy: Policy) -> Ordered:
    """Priority before open before internal, always."""
    return Ordered(policy, {"priority": 0, "open": 1, "internal": 2})
