"""A discrete-event simulation of one pool: sources ask, a scheduler gives slots, engines take their time.

Time is in whole microseconds and every choice is seeded, so a run is the same wherever it runs. A *step* is one change
of the queue: an ask that comes, leaves, is taken, is corrected or ends.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Literal

from gateway.priority.bound import FloorBound
from gateway.priority.types import GROUPS, Ask, Bounds, Group, Policy, QueueFull, Taken, charge
from loadtests.fairsim.patterns import Sources
from loadtests.fairsim.pool import SLOTS, Pool, prefill_us, service_us
from loadtests.fairsim.rivals import Scheduler
from loadtests.fairsim.traffic import SECOND_US, Job
from loadtests.fairsim.windows import Windows

_Kind = Literal["comes", "leaves", "counted", "ends"]
_Event = tuple[int, int, _Kind, str]


def policy(floor: int) -> Policy:
    """The bounds of the simulated queue: 1 000 asks a group, one minute."""
    bounds = Bounds(waiting_max=1_000, wait_us_max=60 * SECOND_US)
    return Policy(floor, bounds, bounds, bounds)


@dataclass(slots=True)
class Ran:
    """What a run came to. Times in microseconds, charges in units; `ids_taken` is the order of dispatch."""

    minutes: Windows
    tens: Windows
    steps: int = 0
    now_us: int = 0
    delivered: int = 0  # true charge of what was completed
    tokens: int = 0
    busy_us: int = 0  # slot time
    idle_backlogged_us: int = 0  # slot time that an ask waited for which could have had it
    waits_us: dict[Group, list[int]] = field(default_factory=lambda: {group: [] for group in GROUPS})
    ended: Counter[str] = field(default_factory=Counter)
    ids_taken: list[str] = field(default_factory=list)


class Simulation:
    """One run of `sources` through `queue`. With a `bound`, every step is checked against it (raises `BoundBroken`)."""

    def __init__(self, sources: Sources, queue: Scheduler, seed: str, bound: FloorBound | None = None) -> None:
        self.ran = Ran(Windows(60 * SECOND_US), Windows(600 * SECOND_US))
        self._queue = queue
        self._bound = bound
        self._pool = Pool()
        self._sources: dict[str, Iterator[Job]] = {one.owner: one.jobs(seed) for one in sources}
        self._next: dict[str, Job] = {}
        self._jobs: dict[str, Job] = {}
        self._flights: dict[str, tuple[str, int]] = {}  # where an ask runs, and what it is charged
        # Kept apart from the queue, so that a queue that forgets an ask is found out.
        self._waiting: dict[str, Ask] = {}
        self._places: Counter[tuple[str, ...]] = Counter()
        self._events: list[_Event] = []
        self._pushed = 0
        for owner in self._sources:
            self._schedule(owner)

    def run(self, steps: int = 1 << 62, until_us: int = 1 << 62) -> Ran:
        """Go on until there were `steps` steps or it is `until_us`."""
        ran = self.ran
        while ran.steps < steps:
            at_us, _, kind, subject = heappop(self._events)
            if at_us >= until_us:
                break
            self._advance(at_us)
            for ask in self._queue.expire(at_us):
                self._leave(ask, "expired")
            self._happen(kind, subject)
            self._give()
            for windows in (ran.minutes, ran.tens):
                windows.check()
        return ran

    def _advance(self, at_us: int) -> None:
        ran, passed = self.ran, at_us - self.ran.now_us
        ran.now_us = at_us
        ran.busy_us += passed * self._pool.busy
        if self._pool.busy < SLOTS and self._waiting:
            able = [self._pool.free_for(places) for places in self._places if self._places[places]]
            ran.idle_backlogged_us += passed * min(max(able), len(self._waiting))
        ran.minutes.advance(at_us)
        ran.tens.advance(at_us)

    def _happen(self, kind: _Kind, subject: str) -> None:
        if kind == "comes":
            self._come(self._next[subject])
            self._schedule(subject)
        elif kind == "leaves":
            ask = self._queue.cancel(subject)
            if ask is not None:
                self._leave(ask, "left")
        elif kind == "counted":
            self._count(self._jobs[subject])
        else:
            self._end(self._jobs.pop(subject))

    def _schedule(self, owner: str) -> None:
        job = self._next[owner] = next(self._sources[owner])
        self._push(job.ask.arrived_us, "comes", owner)

    def _push(self, at_us: int, kind: _Kind, subject: str) -> None:
        self._pushed += 1
        heappush(self._events, (at_us, self._pushed, kind, subject))

    def _come(self, job: Job) -> None:
        self.ran.steps += 1
        try:
            assert self._queue.enqueue(job.ask)
        except QueueFull:
            self.ran.ended["refused"] += 1
            return
        self._jobs[job.ask.request_id] = job
        self._waiting[job.ask.request_id] = job.ask
        self._places[job.ask.upstreams] += 1
        for windows in (self.ran.minutes, self.ran.tens):
            windows.waits(job.ask)
        if job.leaves_us is not None:
            self._push(job.leaves_us, "leaves", job.ask.request_id)

    def _unwait(self, ask: Ask) -> None:
        self.ran.steps += 1
        del self._waiting[ask.request_id]  # a KeyError here: the queue gave an ask twice
        self._places[ask.upstreams] -= 1
        for windows in (self.ran.minutes, self.ran.tens):
            windows.leaves(ask)

    def _leave(self, ask: Ask, how: str) -> None:
        self._unwait(ask)
        self.ran.ended[how] += 1
        del self._jobs[ask.request_id]

    def _give(self) -> None:
        while (free := self._pool.free()) and (taken := self._queue.take(free)) is not None:
            self._begin(taken)

    def _begin(self, taken: Taken) -> None:
        ask, job = taken.ask, self._jobs[taken.ask.request_id]
        self._unwait(ask)
        self.ran.waits_us[ask.group].append(self.ran.now_us - ask.arrived_us)
        self.ran.ids_taken.append(ask.request_id)
        batch = self._pool.begin(taken.upstream)
        self._flights[ask.request_id] = (taken.upstream, 0)
        if self._bound is not None:
            self._bound.taken(taken, job.truth)
            if not taken.contended and ask.group != "internal":
                self.ran.minutes.uncontended()
                self.ran.tens.uncontended()
        self._charge(ask, ask.charge)
        if job.bound != ask.charge:
            self._push(self.ran.now_us + prefill_us(job.prompt), "counted", ask.request_id)
        self._push(self.ran.now_us + service_us(job.prompt, job.output, batch), "ends", ask.request_id)

    def _count(self, job: Job) -> None:
        self.ran.steps += 1
        self._queue.correct(job.ask.request_id, job.bound)
        self._charge(job.ask, job.bound)
        if self._bound is not None:
            self._bound.corrected(job.ask.request_id, job.bound)

    def _end(self, job: Job) -> None:
        ran, request_id = self.ran, job.ask.request_id
        ran.steps += 1
        self._queue.complete(request_id, job.truth)
        self._charge(job.ask, job.truth)
        if self._bound is not None:
            self._bound.completed(request_id, job.truth)
        self._pool.end(self._flights.pop(request_id)[0])
        ran.ended["completed"] += 1
        ran.delivered += charge(job.prompt, job.output)
        ran.tokens += job.prompt + job.output

    def _charge(self, ask: Ask, now: int) -> None:
        upstream, before = self._flights[ask.request_id]
        self._flights[ask.request_id] = (upstream, now)
        for windows in (self.ran.minutes, self.ran.tens):
            windows.charged(ask, now - before)
