"""The fair queue of a pool: which waiting ask gets the slot that is free. Pure: no clock, no IO, integers only.

Two levels. Between the groups `priority` (owners with lineage priority on the model) and `open` (everybody else) a
weighted virtual token counter with the weights 1−φ and φ; inside a group one per owner (`line`). `internal` is served
where neither of the two has an ask that a free slot may serve. Only the difference of two counters matters, so the
groups have one number, `owed`: the part φ of both groups' service less what open was served. Open is next while
`owed` > 0, priority while `owed` < 0, at 0 the older ask. A group is charged the estimate at dispatch, corrected when
more is known.

When a group is served while the other has nothing that the free slots may serve, the other is first lifted to its
counter, less an eighth of what it has in flight (`CREDIT`). So what a group leaves is lent at once, taken back at the
next dispatch, and hardly ever paid back; the eighth is what a group that comes now and then may ask for at once. It
must not be more than what is in flight: the proof needs that.

The bound. φ is the floor, W a group's service over a stretch of time, S = W_priority + W_open, and U the largest
total in flight: what the asks in all slots of the pool are charged together, each at the most it is ever charged (the
larger of estimate and truth). In every stretch at each dispatch of which both groups had an ask that the slot could
serve:

    W_open ≥ φ·S − 2·max(φ, 1−φ)·U        (2·(1−φ)·U where φ ≤ ½; the same for priority with 1−φ in place of φ)

W may be the charge as booked (estimates when dispatched, corrected when known), or the true charge of what was
dispatched, or what has been delivered of it. If estimates are exact, W_open ≥ φ·S − u − U/8 for the largest single
charge u.

Proof. q = `owed` / 10 000. In such a stretch nobody is lifted, so φ·S − W_open is what q rises by, with W as booked.
(1) Take a moment t, and let s be the last time before it at which priority was dispatched or lifted. There q ≤ 0
before the charge (priority was chosen, or lifted to no more than 0), or q ≤ φ·F (open was lifted), F what priority
has in flight then as it is charged. Until t the only rises are φ times the charge of the ask that is dispatched at s,
φ times what is added to priority's asks in flight at s, and (1−φ) times what is given back to open's asks in flight
at s: an ask of open that comes after s rises q by no more than it lowered it. What is charged for an ask in flight
and what is added later are together at most its share of U. So q(t) ≤ φ·U_p + (1−φ)·U_o, where U_p + U_o ≤ U is in
flight at s: q(t) ≤ max(φ, 1−φ)·U. If there is no s, q began at 0 and never rose above it.
(2) In the same way q ≥ −max(φ, 1−φ)·U, from the last time at which open was dispatched or lifted.
(3) So q rises by at most 2·max(φ, 1−φ)·U. If W counts the truth, or what is delivered, d takes the place of the
charge c for what is in flight at t: an ask of priority in flight at s then adds φ·(d(t) − c(s)), one of open
(1−φ)·(c(s) − d(t)), one of open after s −(1−φ)·d(t), and the sums are bounded as before. With exact estimates nothing
is corrected, so −(1−φ)·(u + U/8) ≤ q ≤ φ·(u + U/8), and q rises by at most u + U/8.

What the bound does not say: with n slots full of like asks, U is n of them, and over-estimates are in U until they
are corrected. An upstream that only one group may use is no contention: what it serves counts in `owed` up to one
dispatch and the credit. `bound.FloorBound` checks all this step by step.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from gateway.priority.line import Line
from gateway.priority.owner import arrival
from gateway.priority.types import (
    GROUPS,
    WHOLE,
    Ask,
    Group,
    LineState,
    Outlook,
    Policy,
    QueueFull,
    QueueState,
    Running,
    Taken,
)

# The part of what a group has in flight that the other may be behind it after an absence: one in so many.
CREDIT = 8
NEW = QueueState(0, LineState(0, ()), LineState(0, ()), LineState(0, ()), (), ())


class FairQueue:
    """The asks of one pool that wait and run. Ids that are not known are no error: messages may come twice or late.

    It MUST be told every end of a slot by `complete`, also of one that was lost, and MUST NOT be shared by threads.
    """

    def __init__(self, policy: Policy, state: QueueState = NEW) -> None:
        self.policy = policy
        self.owed = state.owed
        self._lines: dict[Group, Line] = {
            "priority": Line(state.priority), "open": Line(state.open), "internal": Line(state.internal),
        }  # fmt: skip
        self._waiting = {ask.request_id: ask for ask in state.waiting}
        self._running = {one.ask.request_id: one for one in state.running}
        self._ages: dict[Group, list[tuple[int, str]]] = {
            group: [arrival(ask) for ask in state.waiting if ask.group == group] for group in GROUPS
        }
        self._in_flight: Counter[Group] = Counter()
        for ages in self._ages.values():
            heapify(ages)
        for one in state.running:
            self._lines[one.ask.group].resume(one.ask)
            self._in_flight[one.ask.group] += one.charge
        for ask in state.waiting:
            self._lines[ask.group].put(ask, lift=False)

    def state(self) -> QueueState:
        """The whole state: a queue that begins from it decides as this one does, also under another policy."""
        priority, open_, internal = (self._lines[group].state() for group in GROUPS)
        waiting = tuple(sorted(self._waiting.values(), key=arrival))
        running = tuple(sorted(self._running.values(), key=lambda one: one.ask.request_id))
        return QueueState(self.owed, priority, open_, internal, waiting, running)

    def waiting(self, group: Group) -> int:
        """How many asks of a group wait."""
        return self._lines[group].waiting

    @property
    def running(self) -> Iterable[Running]:
        """What has a slot."""
        return self._running.values()

    def enqueue(self, ask: Ask) -> bool:
        """Let an ask wait; False if it waits or runs already. Raises `QueueFull`.

        An owner may have no more places than its group has left: so one that floods leaves room for those who come
        later (dynamic thresholds: Choudhury and Hahne, IEEE/ACM ToN 6(2), 1998).
        """
        if ask.request_id in self._waiting or ask.request_id in self._running:
            return False
        line = self._lines[ask.group]
        if line.waiting_of(ask.owner) >= self.policy.bounds(ask.group).waiting_max - line.waiting:
            raise QueueFull(ask, line.waiting)
        line.put(ask)
        self._waiting[ask.request_id] = ask
        heappush(self._ages[ask.group], arrival(ask))
        return True

    def cancel(self, request_id: str) -> Ask | None:
        """Take out an ask whose client left; None if it does not wait (any more)."""
        ask = self._waiting.pop(request_id, None)
        if ask is not None:
            self._lines[ask.group].remove(ask)
        return ask

    def expire(self, now_us: int) -> list[Ask]:
        """Take out, the oldest of each group first, what has waited as long as its group lets it."""
        gone = []
        for group, ages in self._ages.items():
            latest = now_us - self.policy.bounds(group).wait_us_max
            while ages and ages[0][0] <= latest:
                at, request_id = heappop(ages)
                ask = self._waiting.get(request_id)
                if ask is not None and ask.arrived_us == at:
                    self.cancel(request_id)
                    gone.append(ask)
        return gone

    def take(self, free: Sequence[str]) -> Taken | None:
        """Give one slot away. `free`: the upstreams that have a free slot, the one to use first in front. None if
        nothing that waits may be served there. One slot a call, so that each is given by counters that know the one
        before."""
        places = frozenset(free)
        first = [self._lines[group].first(places) for group in ("priority", "open")]
        ask = self._next(*first) or self._lines["internal"].first(places)
        if ask is None:
            return None
        contended = None not in first
        if not contended:
            self._lift_other(ask.group)
        self._book(ask.group, ask.charge)
        self._lines[ask.group].serve(ask)
        del self._waiting[ask.request_id]
        self._running[ask.request_id] = Running(ask, ask.charge)
        self._forget_ages(ask.group)
        return Taken(ask, next(name for name in free if name in ask.upstreams), contended)

    def correct(self, request_id: str, charge: int) -> bool:
        """Charge `charge` for an ask that runs, in place of what it is charged now; False if it does not run."""
        return self._correct(request_id, charge, ends=False)

    def complete(self, request_id: str, charge: int) -> bool:
        """End an ask that runs, at its true charge; False if it does not run."""
        return self._correct(request_id, charge, ends=True)

    def outlook(self, request_id: str, units_per_s: int) -> Outlook | None:
        """How an ask stands in a pool that serves `units_per_s`; None if it does not wait. One step for each ask
        before it."""
        ask = self._waiting.get(request_id)
        if ask is None:
            return None
        ahead = self._lines[ask.group].ahead(ask)
        units = sum(one.charge for one in ahead)
        units += self._others_ahead(ask.group, units)
        return Outlook(len(ahead) + 1, units * 1_000 // max(1, units_per_s))

    def _others_ahead(self, group: Group, units: int) -> int:
        """What other groups are served while this one is served `units`, as far as they ask for it."""
        floor, priority, open_ = self.policy.floor, self._lines["priority"].charge, self._lines["open"].charge
        if group == "internal":
            return priority + open_
        if group == "priority":
            return max(0, min(open_, (floor * units + self.owed) // (WHOLE - floor)))
        return max(0, min(priority, ((WHOLE - floor) * units - self.owed) // floor))

    def _next(self, priority: Ask | None, open_: Ask | None) -> Ask | None:
        if priority is None or open_ is None:
            return priority or open_
        if self.owed:
            return open_ if self.owed > 0 else priority
        return min(priority, open_, key=arrival)

    def _lift_other(self, group: Group) -> None:
        """Before `group` is served alone: let the other be behind by no more than the credit."""
        if group == "priority":
            self.owed = min(self.owed, self.policy.floor * self._in_flight[group] // CREDIT)
        elif group == "open":
            self.owed = max(self.owed, -((WHOLE - self.policy.floor) * self._in_flight[group] // CREDIT))

    def _book(self, group: Group, units: int) -> None:
        self._in_flight[group] += units
        if group == "priority":
            self.owed += self.policy.floor * units
        elif group == "open":
            self.owed -= (WHOLE - self.policy.floor) * units

    def _correct(self, request_id: str, charge: int, *, ends: bool) -> bool:
        one = self._running.pop(request_id, None)
        if one is None:
            return False
        self._book(one.ask.group, charge - one.charge)
        self._lines[one.ask.group].correct(one.ask, one.charge, charge, ends=ends)
        if ends:
            self._in_flight[one.ask.group] -= charge
        else:
            self._running[request_id] = Running(one.ask, charge)
        return True

    def _forget_ages(self, group: Group) -> None:
        """Drop what no longer waits, so that a queue that nobody asks to expire does not grow."""
        ages = self._ages[group]
        while ages and ages[0][1] not in self._waiting:
            heappop(ages)
