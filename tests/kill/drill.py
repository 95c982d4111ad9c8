"""One campaign: deaths at every point and at random times, under load, then the check of all books together.

A point of a gateway kills the gateway, and in further rounds PostgreSQL and Valkey under a gateway that lives on."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from billing.reconcile import Reconciliation
from gateway.up.failure import UpError
from gateway.up.processes import Child
from tests.kill.book import Facts, Findings, check
from tests.kill.clients import Callers, Kind, Seen
from tests.kill.failpoints import ENGINE_POINTS, GATEWAY_POINTS, WORKER_POINTS
from tests.kill.reading import checkpointed, facts, quiet, reconciled
from tests.kill.stack import SESSION, TENANTS, Kill, Stack
from tests.kill.stores import STORES

DEATH_S_MAX = 30.0
# A hold whose answer got lost together with Valkey has no row; of a living process it is ended after a minute.
QUIET_S_MAX = 100.0
AFTER_S = 0.6
STORE_APART_S = 2.0
CHECKPOINT_S_MAX = 3.0
CLIENTS = 6
START_AGAIN_S = 0.3
WORKER = "worker"
ENGINE = "engine"
VICTIMS = {"gateway", WORKER, ENGINE, *STORES}
SPARED_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """One death to bring about: at which point, of a request of which kind, at the how manyth passing."""

    point: str
    kind: Kind
    nth: int
    store: str = ""

    @property
    def armed(self) -> str:
        """As SEKISHO_FAILPOINT wants it."""
        return f"{self.point}:{self.nth}:{self.kind}:{self.store}"


KINDS: tuple[Kind, ...] = ("stream", "whole")
GATEWAY_JOBS = tuple((point, kind) for point in GATEWAY_POINTS for kind in KINDS)
ENGINE_JOBS = tuple((point, kind) for point in ENGINE_POINTS for kind in KINDS)
WORKER_JOBS = tuple(Job(point, "mixed", 2) for point in WORKER_POINTS)
STORE_JOBS = tuple((point, store) for point in GATEWAY_POINTS for store in STORES)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it. `repeats` of every point, with a random number of passings up to `nth_max`; times in seconds.
    With `kills_min` the deaths at random times go on until there were so many of all kinds."""

    seed: int
    gateways: int = 3
    kills_min: int = 0
    repeats: int = 1
    nth_max: int = 6
    control_s: float = 2.0
    random_s: float = 15.0
    both: int = 2


@dataclass
class Report:
    """What happened, and what the check of the books found."""

    facts: Facts
    findings: Findings
    deaths: list[Kill]
    missed: list[str]
    control: Findings
    control_seen: list[Seen]
    quiet_s: float | None
    wall_s: float
    listening: set[str]
    duplicates: int
    forgot: int
    books: Reconciliation

    @property
    def requests(self) -> int:
        """Calls that reached a gateway; those that found nobody listening are none."""
        return sum(call.error != "ClientConnectorError" for call in self.facts.seen)

    @property
    def by_victim(self) -> dict[str, dict[str, int]]:
        """Deaths by victim and point; `random` are those at a time and not at a point."""
        counts: dict[str, Counter[str]] = {}
        for kill in self.deaths:
            by_kind = kill.kind and kill.victim not in STORES
            name = f"{kill.point}/{kill.kind}" if by_kind else kill.point or "random"
            counts.setdefault(kill.victim, Counter())[name] += 1
        return {victim: dict(sorted(points.items())) for victim, points in sorted(counts.items())}


@dataclass
class Drill:
    """Runs a `Plan` on a stack whose engine is up."""

    stack: Stack
    plan: Plan
    seen: list[Seen] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.plan.seed)
        self._slots = [f"gateway-{number}" for number in range(self.plan.gateways)]
        self._seeds = iter(range(self.plan.seed * 1_000_000, (self.plan.seed + 1) * 1_000_000))

    async def run(self) -> Report:
        """Control, both together, every point, random times; then wait for recovery and check."""
        started = time.monotonic()
        await asyncio.gather(*(self.stack.start(slot) for slot in self._slots), self.stack.start(WORKER))
        listening = self.stack.listening()
        control, control_seen = await self._control()
        for _ in range(self.plan.both):
            await self._both()
        await self.stack.kill(WORKER)
        workers = asyncio.create_task(self._workers())
        await self._gateway_points()
        await self._engine_points()
        await self._wait_for(workers)
        await self._store_points()
        await self._random_times()
        await self._ask_once_each()
        quiet_s = await quiet(self.stack, QUIET_S_MAX)
        books = await reconciled(self.stack)
        for slot in self._slots:  # an orderly end must leave the books as they are
            await self.stack.children[slot].stop()
        found = await facts(self.stack, self.seen)
        return Report(
            found, check(found), self.stack.deaths(), self.missed, control, control_seen, quiet_s,
            time.monotonic() - started, listening, self.stack.duplicates(), self.stack.stores["valkey"].forgot,
            books,
        )  # fmt: skip

    def _callers(self, slot: str, kind: Kind = "mixed", *, leave: bool = False) -> Callers:
        callers = Callers(self.stack.url(slot), self.stack.keys, next(self._seeds), kind, leave=leave)
        callers.start(CLIENTS)
        return callers

    async def _collect(self, *callers: Callers) -> None:
        for one in callers:
            self.seen += await one.stop()

    async def _control(self) -> tuple[Findings, list[Seen]]:
        """The same load with nobody killed."""
        callers = [self._callers(slot) for slot in self._slots]
        await asyncio.sleep(self.plan.control_s)
        await self._collect(*callers)
        await quiet(self.stack, QUIET_S_MAX)
        return check(await facts(self.stack, self.seen)), list(self.seen)

    async def _both(self) -> None:
        """Gateway and engine die in the middle of streams, and the engine has no time to write anything down."""
        slot = self._slots[0]
        callers = self._callers(slot, "stream")
        await asyncio.sleep(0.6 + self._random.random() * 0.3)
        self.stack.freeze(ENGINE)
        if not await checkpointed(self.stack, CHECKPOINT_S_MAX):
            self.missed.append("no running stream was checkpointed")
        await self.stack.kill(slot)
        await self.stack.kill(ENGINE)
        await self._collect(callers)
        await asyncio.gather(self.stack.start(ENGINE), self.stack.start(slot))

    async def _workers(self) -> None:
        """One worker after the other: each dies at its point, the last one lives."""
        for job in WORKER_JOBS * self.plan.repeats:
            child = await self.stack.start(WORKER, job.armed)
            code = await child.wait()
            if code != -signal.SIGKILL:
                self.missed.append(f"{job.armed}: the worker ended with {code}: {child.last_lines()}")
        await self.stack.start(WORKER)

    async def _wait_for(self, workers: "asyncio.Task[None]") -> None:
        """A worker dies only over work; by now there is as much as there will be."""
        try:
            await asyncio.wait_for(workers, QUIET_S_MAX)
        except TimeoutError:
            self.missed.append("a worker's point was not reached")
            await self.stack.kill(WORKER)
            await self.stack.start(WORKER)

    def _jobs(self, kinds: Sequence[tuple[str, Kind]]) -> list[Job]:
        return [
            Job(point, kind, self._random.randint(2, self.plan.nth_max))
            for _ in range(self.plan.repeats)
            for point, kind in kinds
        ]

    async def _gateway_points(self) -> None:
        """Every slot takes one job after the other: start a gateway, call it until it is dead."""
        jobs = self._jobs(GATEWAY_JOBS)
        jobs.reverse()

        async def work(slot: str) -> None:
            while jobs:
                job = jobs.pop()
                await self.stack.children[slot].stop()
                await self._gateway_point(slot, job)
            await self.stack.start(slot)

        await asyncio.gather(*(work(slot) for slot in self._slots))

    async def _gateway_point(self, slot: str, job: Job) -> None:
        child = await self.stack.start(slot, job.armed)
        # At the first point the gateway has not read yet whether the answer is to be streamed: all ask for the same.
        callers = self._callers(slot, job.kind if job.point == "after_identify" else "mixed")
        await self._death(slot, job)
        await self._collect(callers)
        if child.running:
            await self.stack.kill(slot)

    async def _engine_points(self) -> None:
        for job in self._jobs(ENGINE_JOBS):
            await self.stack.kill(ENGINE)
            await self.stack.start(ENGINE, job.armed)
            callers = [self._callers(slot) for slot in self._slots]
            await self._death(ENGINE, job)
            await self._collect(*callers)
        await self.stack.kill(ENGINE)
        await self.stack.start(ENGINE)

    async def _death(self, name: str, job: Job) -> None:
        child = self.stack.children[name]
        try:
            code = await asyncio.wait_for(child.wait(), DEATH_S_MAX)
        except TimeoutError:
            self.missed.append(f"{job.armed} was not reached")
            return
        if code != -signal.SIGKILL:
            self.missed.append(f"{job.armed}: ended with {code}: {child.last_lines()}")

    async def _store_points(self) -> None:
        """Each store in a lane of its own; the gateway at the point must live on. A third gateway is only called."""
        jobs = [
            Job(point, "mixed", self._random.randint(2, self.plan.nth_max), store)
            for _ in range(self.plan.repeats)
            for point, store in STORE_JOBS
        ]
        bystander = self._callers(self._slots[-1], leave=True)

        async def work(slot: str, store: str) -> None:
            for job in jobs:
                if job.store == store:
                    await self.stack.children[slot].stop()
                    await self._store_point(slot, job)
            await self.stack.children[slot].stop()
            await self._start_again(slot)

        await asyncio.gather(*(work(slot, store) for slot, store in zip(self._slots, STORES, strict=False)))
        await self._collect(bystander)

    async def _store_point(self, slot: str, job: Job) -> None:
        kept = self.stack.stores[job.store]
        before = kept.deaths
        child = await self._start_again(slot, job.armed)
        callers = self._callers(slot, leave=True)
        if await kept.died(before, DEATH_S_MAX):
            await asyncio.sleep(AFTER_S)
        else:
            self.missed.append(f"{job.armed} was not reached")
        await self._collect(callers)
        if not child.running:
            self.missed.append(f"{job.armed}: the gateway ended with it: {child.last_lines()}")

    async def _random_times(self) -> None:
        """All of them die at random times and come back at once, under load; some clients leave in the middle."""
        callers = [self._callers(slot, leave=True) for slot in self._slots]
        ends = time.monotonic() + self.plan.random_s
        victims = [*self._slots, *self._slots, ENGINE, WORKER, *STORES, SESSION]
        coming: dict[str, asyncio.Task[Child]] = {}
        not_before: dict[str, float] = {}
        while (
            time.monotonic() < ends
            or len(self.stack.deaths()) < self.plan.kills_min
            or (self._spared() and time.monotonic() < ends + SPARED_S_MAX)
        ):
            await asyncio.sleep(self._random.uniform(0.1, 1.0))
            victim = self._random.choice(victims)
            if victim in STORES or victim == SESSION:
                name = "postgresql" if victim == SESSION else victim
                if time.monotonic() >= not_before.get(name, 0.0) and self.stack.stores[name].serves_for(STORE_APART_S):
                    await self.stack.kill(victim)
                    not_before[name] = time.monotonic() + 2 * STORE_APART_S  # a session's death is a restart as well
            elif victim not in coming or coming[victim].done():
                await self.stack.kill(victim)
                coming[victim] = asyncio.create_task(self._start_again(victim))
        await asyncio.gather(*coming.values())
        await self._collect(*callers)

    def _spared(self) -> set[str]:
        """Who has not died at a random time yet."""
        return VICTIMS - {kill.victim for kill in self.stack.deaths() if not kill.point}

    async def _start_again(self, victim: str, armed: str = "") -> Child:
        """A gateway that finds no database at its start ends, and is started again, as any supervisor does it."""
        for _ in range(round(DEATH_S_MAX / START_AGAIN_S)):
            try:
                return await self.stack.start(victim, armed)
            except UpError:
                await self.stack.children[victim].stop()
                await asyncio.sleep(START_AGAIN_S)
        return await self.stack.start(victim, armed)

    async def _ask_once_each(self) -> None:
        """A call of every tenant, so that Valkey knows every month again, also when it forgot all at the very end."""
        callers = self._callers(self._slots[0])
        done = len(TENANTS) * 2
        for _ in range(round(DEATH_S_MAX / 0.1)):
            await asyncio.sleep(0.1)
            if sum(call.complete and call.status == 200 for call in callers.seen) >= done:
                break
        await self._collect(callers)
