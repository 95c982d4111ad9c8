"""Where limits are kept, agreed by all processes: in Valkey, or in the book while a process cannot reach Valkey.

Each change begins a generation (one row of the book, moved by conditional UPDATE). A generation admits requests only
when every process has said that it knows of it, or has not been seen for so long that its own lease has run out: so
from that moment on nobody delivers on a hold of an earlier one without having it confirmed, and what the journal then
says of a tenant is all there is. docs/decisions/0014-limits-without-valkey.md has the argument.
"""

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from uuid import uuid4

from asyncpg import PostgresError
from redis.exceptions import RedisError

from billing.link import Link
from gateway.faults import Fault
from gateway.limits.types import Mode
from gateway.limits.valkey import ValkeyLimits

_LOG = logging.getLogger(__name__)

POLL_S = 0.25
PROBE_S = 0.5
# Without a successful poll for this long a process admits and delivers nothing.
LEASE_S = 5.0
# Longer than a lease and a poll that was just not written down.
UNSEEN_S = 7.0
AWAY_S = 1.0
BACK_S = 1.0
# How long a request waits for a generation to admit before it is turned away with 503.
OPEN_WAIT_S_MAX = 1.0
READY_S_MAX = 3.0

_POLL = f"""
WITH mode AS (SELECT mode, generation, name, run FROM limits_mode), said AS (
  INSERT INTO limits_member AS m (member_id, generation, valkey, seen_at)
  SELECT $1, coalesce($2, generation), $3, clock_timestamp() FROM mode WHERE $1 <> ''
  ON CONFLICT (member_id) DO UPDATE
    SET generation = excluded.generation, valkey = excluded.valkey, seen_at = excluded.seen_at
    WHERE (m.generation, m.valkey) IS DISTINCT FROM (excluded.generation, excluded.valkey)
      OR m.seen_at < clock_timestamp() - interval '1 second'
), others AS (
  SELECT generation, valkey FROM limits_member
  WHERE member_id <> $1 AND seen_at > clock_timestamp() - interval '{UNSEEN_S} seconds'
)
SELECT mode, generation, name, run,
  NOT EXISTS (SELECT FROM others o WHERE o.generation < mode.generation) AS open,
  NOT EXISTS (SELECT FROM others o WHERE NOT o.valkey) AS reached
FROM mode
"""  # noqa: S608 # a constant of ours

_TURN = """
UPDATE limits_mode SET mode = $2, generation = generation + 1, name = $3, run = $4, changed_at = now()
WHERE generation = $1
"""

_LEAVE = """
DELETE FROM limits_member WHERE member_id = $1 OR seen_at < now() - interval '1 hour'
"""


@dataclass(slots=True)
class _Reach:
    """Since when Valkey has been away or back, as this process sees it; monotonic seconds."""

    away_since: float | None = None
    back_since: float | None = None

    def note(self, *, reached: bool) -> None:
        now = time.monotonic()
        if reached:
            self.away_since = None
            self.back_since = now if self.back_since is None else self.back_since
        else:
            self.back_since = None
            self.away_since = now if self.away_since is None else self.away_since

    @property
    def away(self) -> bool:
        return self.away_since is not None and time.monotonic() - self.away_since >= AWAY_S

    @property
    def back(self) -> bool:
        return self.back_since is not None and time.monotonic() - self.back_since >= BACK_S


class Modes:
    """What one process knows of where limits are kept. `admits`: it reserves, and is waited for; a worker only ends
    holds. The first question starts the polling; `close` ends it."""

    def __init__(self, dsn: str, valkey: ValkeyLimits, *, admits: bool = True) -> None:
        self._link = Link(dsn, synchronous=False)
        self._turn_link = Link(dsn)  # a turn that others have seen must not be undone by a crash
        self._valkey = valkey
        self._member_id = str(uuid4()) if admits else ""
        self._mode: Mode | None = None
        self._open = False
        self._reached_by_others = False
        self._polled = self._leased = float("-inf")
        self._reach = _Reach()
        self._seen_generation = 0  # the last one that Valkey was seen to know
        self._changed = asyncio.Condition()
        self._wake = asyncio.Event()
        self._probe_now = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    @property
    def leased(self) -> bool:
        """Whether this process may still go by what it knows."""
        return time.monotonic() - self._leased < LEASE_S

    @property
    def degraded(self) -> bool:
        """Whether limits are kept by the book."""
        return self._mode is not None and self._mode.kind == "book"

    @property
    def problem(self) -> str | None:
        """Why no request can be admitted now, or None."""
        if not self.leased:
            return "limits are unavailable (PostgreSQL)"
        if not self._open:
            return "limits are changing their store"
        if not self.degraded and (self._reach.away_since is not None or self._seen_generation != self._generation):
            return "limits are unavailable (Valkey)"
        return None

    @property
    def _generation(self) -> int:
        return 0 if self._mode is None else self._mode.generation

    def in_force(self, generation: int) -> bool:
        """Whether `generation` is still the one to go by. Raises `Fault("store_unavailable")` when this process cannot
        know."""
        if not self.leased or self._mode is None:
            raise _unavailable("limits: no lease")
        return self._mode.generation == generation

    async def admitting(self) -> Mode:
        """The mode, once it admits. Raises `Fault("store_unavailable")` when that takes too long."""
        if self.leased and self._open and self._mode is not None:
            return self._mode
        self._start()
        try:
            async with asyncio.timeout(OPEN_WAIT_S_MAX), self._changed:
                await self._changed.wait_for(lambda: self.leased and self._open)
        except TimeoutError:
            raise _unavailable(f"limits: {self.problem}") from None
        assert self._mode is not None
        return self._mode

    async def latest(self) -> Mode | None:
        """The mode for what has been settled by now, as the book says: None when its generation does not admit yet, so
        that it will read the settlement from the journal. Raises `StoreUnavailable` or `PostgresError`."""
        if self._member_id:
            self._start()
            if self.leased and self._open:
                return self._mode
        while await self.poll():
            continue
        return self._mode if self._open else None

    async def beyond(self, generation: int) -> None:
        """`generation` turned out to be over: find the next one. Raises `Fault("store_unavailable")` when there is none
        in time."""
        self._wake.set()
        self._probe_now.set()
        try:
            async with asyncio.timeout(OPEN_WAIT_S_MAX), self._changed:
                await self._changed.wait_for(lambda: self._mode is not None and self._mode.generation > generation)
        except TimeoutError:
            raise _unavailable(f"limits: generation {generation} is lost") from None

    async def ready(self) -> None:
        """Begin to know where limits are kept. Raises `Fault("store_unavailable")` when that takes too long."""
        self._start()
        try:
            async with asyncio.timeout(READY_S_MAX), self._changed:
                await self._changed.wait_for(lambda: self.problem is None)
        except TimeoutError:
            raise _unavailable(f"limits: {self.problem}") from None

    def failed(self) -> None:
        """Valkey did not answer a request."""
        self._reach.note(reached=False)
        self._probe_now.set()

    def _start(self) -> None:
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._poll_on()), asyncio.create_task(self._probe_on())]

    async def _poll_on(self) -> None:
        while not self._closing:
            try:
                if await self.poll():
                    continue  # a change is answered at once: others wait for it
            except (OSError, PostgresError) as error:
                _LOG.warning("where limits are kept could not be read: %r", error)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def poll(self) -> bool:
        """Say what this process knows, and read what is in force; whether that must be said at once."""
        known = None if self._mode is None else self._mode.generation
        started = time.monotonic()
        reached = not self._reach.away if not self.degraded else self._reach.back
        row = (await self._link.fetch(_POLL, self._member_id, known, reached))[0]
        if known is not None and self._mode is not None and known < self._mode.generation:
            return True  # another poll of this process was faster
        mode = Mode(row["mode"], row["generation"], row["name"], row["run"])
        if known != mode.generation:
            self._probe_now.set()
            _LOG.log(logging.INFO if known is None else logging.WARNING, "limits are kept by: %s", mode)
            self._mode, self._open = mode, False
            await self._valkey.expect(mode.run)
        # Who was not waited for can have missed a turn between this reading and the word that it was made: it counts
        # from the second one on.
        counted = started - self._polled < LEASE_S
        self._polled = started
        if counted:
            self._leased = started
        self._open = self._open or (row["open"] and known == mode.generation and bool(mode.name))
        self._reached_by_others = row["reached"]
        async with self._changed:
            self._changed.notify_all()
        return not counted or known != mode.generation

    async def _probe_on(self) -> None:
        while not self._closing:  # the client of Valkey may swallow a cancellation
            try:
                await self._probe()
            except (OSError, PostgresError) as error:
                _LOG.warning("limits could not change their store: %r", error)
            try:
                async with asyncio.timeout(PROBE_S):
                    await self._probe_now.wait()
                await asyncio.sleep(POLL_S / 5)  # many may ask at once
            except TimeoutError:
                pass
            self._probe_now.clear()

    async def _probe(self) -> None:
        """Look at Valkey, and turn where that is called for."""
        mode = self._mode
        if mode is None:
            return
        try:
            run, known = await self._valkey.observe(mode.name)
        except (RedisError, OSError) as error:
            self._reach.note(reached=False)
            if mode.kind == "valkey" and self._reach.away:
                _LOG.warning("Valkey is away, limits go to the book: %r", error)
                await self.turn_to_book(mode)
            return
        self._reach.note(reached=True)
        if known and run == mode.run and self._seen_generation != mode.generation:
            self._seen_generation = mode.generation
            async with self._changed:
                self._changed.notify_all()
        lost = mode.kind == "valkey" and not (known and run == mode.run)
        back = mode.kind == "book" and self._reach.back and self._reached_by_others
        if lost or back:
            await self.turn_to_valkey(mode)

    async def turn_to_book(self, mode: Mode) -> None:
        """Begin the generation after `mode` in the book. Does nothing when another process was faster."""
        await self._turn(mode, "book", f"{mode.generation + 1}-book", "")

    async def turn_to_valkey(self, mode: Mode) -> None:
        """Begin the generation after `mode` in Valkey, if it answers. Does nothing when another process was faster."""
        name = f"{mode.generation + 1}-{secrets.token_hex(4)}"
        try:
            run = await self._valkey.begin(name)
        except (RedisError, OSError) as error:
            _LOG.warning("Valkey went away again: %r", error)
            return
        await self._turn(mode, "valkey", name, run)

    async def _turn(self, mode: Mode, kind: str, name: str, run: str) -> None:
        await self._turn_link.fetch(_TURN, mode.generation, kind, name, run)
        self._wake.set()

    async def close(self) -> None:
        """Stop, and be waited for no more."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks and self._member_id:
            try:
                await self._turn_link.fetch(_LEAVE, self._member_id)
            except (OSError, PostgresError) as error:
                _LOG.warning("others will wait for this process once more: %r", error)
        await self._link.close()
        await self._turn_link.close()


def _unavailable(why: str) -> Fault:
    return Fault("store_unavailable", retry_after_s=1, internal=why)
