"""`sekisho worker`: finishes what dead processes left, ends stray holds, reconciles the books, delivers webhooks.

One worker of all leads (an advisory lock of PostgreSQL, held by its connection, so it is free again the moment the
leader dies); the others wait. Every step is idempotent: a leader killed in the middle is repeated by the next.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asyncpg import PostgresError
from redis.exceptions import RedisError

from billing.journal import Journal
from billing.link import Link
from billing.outbox import Handler, Outbox
from billing.rating import rate
from billing.recovery import Unfinished, finals, owners, sweep_checkpoints, unfinished
from billing.spool import leftovers, settlements
from billing.types import Outcome, Settlement, Usage, UsageSource
from gateway.audit.record import AuditRecord
from gateway.books import Books
from gateway.clock import now_us
from gateway.limits import soft
from gateway.limits.holds import HeldEntry, Holds, Release
from gateway.repeats.store import expire
from gateway.settings import Settings
from gateway.tenancy.keystore import KeyFiles
from gateway.upstreams.client import UpstreamClient
from gateway.upstreams.witness import Witness
from gateway.webhooks.deliver import Deliverer
from gateway.webhooks.store import purge

_LOG = logging.getLogger(__name__)

TICK_S = 0.5
DEAD_AFTER_S = 5.0
READING_GAP_S_MAX = 2.0
WITNESS_WAIT_S_MAX = 10.0
SWEEP_EVERY_S = 2.0
HOLD_AGE_S_MIN = 5
# A living process writes the row right after the hold; a hold without one is left of an answer that got lost.
ROWLESS_HOLD_S_MAX = 60
TIDY_EVERY_S = 60.0
OUTBOX_EVERY_S = 0.5
BOOKS_EVERY_S = 1.0
BATCH_ROWS = 100
_LEADER_LOCK = 0x5E_C1_51

# What follows from the rows of the outbox, by their kind.
HANDLERS: Mapping[str, Handler] = {"usage": soft.handle}

_INSTANCES = "SELECT instance_id, heartbeat_at::text AS heartbeat_at FROM instance"
_FORGET = """
DELETE FROM instance i WHERE i.heartbeat_at < now() - interval '1 day'
AND NOT EXISTS (SELECT FROM journal j WHERE j.instance_id = i.instance_id
  AND j.state IN ('open', 'dispatched', 'streaming'))
"""


@dataclass
class Liveness:
    """Which processes live. One counts as dead when this worker itself has read the same heartbeat for 5 s without a
    gap in its own readings (a database that was away must not make everybody look dead), or when it retired."""

    seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    dead_since: dict[str, float] = field(default_factory=dict)
    read_at: float = float("-inf")

    def observe(self, heartbeats: dict[str, str], now: float) -> None:
        """Take one reading of all heartbeats at the monotonic time `now` (seconds)."""
        gap = now - self.read_at > READING_GAP_S_MAX
        # A gap proves nothing about the living; who was found dead and still says the same stays dead.
        known = {name: seen for name, seen in self.seen.items() if not gap or name in self.dead_since}
        self.read_at = now
        self.seen = {
            instance_id: known[instance_id] if instance_id in known and known[instance_id][0] == beat else (beat, now)
            for instance_id, beat in heartbeats.items()
        }

    def alive(self, instance_id: str, now: float) -> bool:
        """Whether the process may still finish its work."""
        beat, since = self.seen.get(instance_id, ("-infinity", now))
        alive = beat != "-infinity" and now - since < DEAD_AFTER_S
        if alive:
            self.dead_since.pop(instance_id, None)
        else:
            self.dead_since.setdefault(instance_id, now)
        return alive

    def dead_for(self, instance_id: str, now: float) -> float:
        """Seconds since the process was first found dead."""
        return now - self.dead_since.get(instance_id, now)


class Worker:
    """The leader's rounds."""

    def __init__(self, settings: Settings) -> None:
        self._link = Link(settings.database_url)
        self._lock_link = Link(settings.database_url)
        self._journal = Journal(settings.database_url)
        self._holds = Holds(settings.valkey_url, settings.database_url, admits=False)
        self._client = UpstreamClient(settings.timeouts)
        self.witness = Witness(self._client, settings.witness_token_file)
        self._spool_dir = settings.spool_dir
        self._liveness = Liveness()
        self._refused: set[str] = set()
        self._next_sweep = 0.0
        self._next_tidy = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds until `stop` is set."""
        while not stop.is_set():
            try:
                if await self._lead():
                    await self.round(time.monotonic())
            except (OSError, PostgresError, RedisError) as error:
                _LOG.warning("round given up, the next one repeats it: %r", error)
            try:
                await asyncio.wait_for(stop.wait(), TICK_S)
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Store what is queued and close the connections."""
        await self._holds.close()
        await self._journal.close()
        await self._client.close()
        await self._link.close()
        await self._lock_link.close()

    async def _lead(self) -> bool:
        # Taken again each round: the lock counts per session, and a new session must take it anew.
        rows = await self._lock_link.fetch(
            "SELECT CASE WHEN EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = $1::bigint::oid"
            " AND pid = pg_backend_pid() AND granted) THEN true ELSE pg_try_advisory_lock($1::bigint) END AS leads",
            _LEADER_LOCK,
        )
        return bool(rows[0]["leads"])

    async def round(self, now: float) -> None:
        """One round at the monotonic time `now` (seconds)."""
        heartbeats = {row["instance_id"]: row["heartbeat_at"] for row in await self._link.fetch(_INSTANCES)}
        self._liveness.observe(heartbeats, now)
        for instance_id, path in leftovers(self._spool_dir).items():
            if not self._liveness.alive(instance_id, now):
                await _step("spool", self._replay(instance_id, path))
        for instance_id in await owners(self._link):
            if not self._liveness.alive(instance_id, now):
                await _step("recovery", self._recover(instance_id, now))
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_EVERY_S
            await _step("sweep", self._sweep(now))
        if now >= self._next_tidy:
            self._next_tidy = now + TIDY_EVERY_S
            await _step("partitions", self._link.fetch("SELECT journal_ensure_partitions(now(), 3)"))
            await _step("checkpoints", sweep_checkpoints(self._link))
            await _step("instances", self._link.fetch(_FORGET))
            await _step("idempotency keys", expire(self._link))
            await _step("webhook events", purge(self._link))
            await _step("generations of limits", self._holds.tidy())

    async def _replay(self, instance_id: str, path: Path) -> None:
        """Settle what a dead process had on disk, before recovery judges its rows by less."""
        found = list(settlements(path))
        for settlement, result in zip(
            found,
            await asyncio.gather(*map(self._journal.settlements.put, found), return_exceptions=True),
            strict=True,
        ):
            if isinstance(result, PostgresError):
                await self._journal.bury(settlement, repr(result))
            elif isinstance(result, BaseException):
                raise result
        await asyncio.to_thread(path.unlink)
        _LOG.info("settled %d requests that %s had on disk", len(found), instance_id)

    async def _recover(self, instance_id: str, now: float) -> None:
        rows = await unfinished(self._link, instance_id, BATCH_ROWS)
        if not rows:
            return
        patient = self._liveness.dead_for(instance_id, now) < WITNESS_WAIT_S_MAX
        # All at once: an engine whose host hangs costs one time-out a round, not one per row.
        counts = await asyncio.gather(*(self._count(row, patient) for row in rows))
        for row, counted in zip(rows, counts, strict=True):
            if counted is not None and row.request_id not in self._refused:
                await self._settle_or_bury(row, *counted)

    async def _settle_or_bury(self, row: Unfinished, usage: Usage, source: UsageSource) -> None:
        """One row that cannot be settled is kept for a person and stops no other."""
        try:
            await self._settle(row, usage, source)
        except (PostgresError, ValueError, LookupError) as error:
            self._refused.add(row.request_id)
            _LOG.critical("row %s cannot be recovered (%s, %s): %r", row.request_id, usage, source, error)

    async def _count(self, row: Unfinished, patient: bool) -> tuple[Usage, UsageSource] | None:
        """Usage and who counted it; None to ask again next round."""
        if not row.delivered:
            return Usage(), "none"
        if row.witness_url is not None:
            record = await self.witness.ask(row.witness_url, f"{row.request_id}-{row.attempt}")
            if record is not None and record.state in ("finished", "aborted"):
                return record.usage, "witness"
            if patient:
                return None
        return (row.checkpoint, "checkpoint") if row.checkpoint is not None else (Usage(), "none")

    async def _settle(self, row: Unfinished, usage: Usage, source: UsageSource) -> None:
        card = row.card
        if card is None and source != "none":
            raise LookupError(f"rate card {row.rate_card_id} of {row.request_id} is missing")
        lines = () if card is None or source == "none" else rate(usage, card)
        settlement = Settlement(
            request_id=row.request_id,
            tenant_id=row.tenant_id,
            state="recovered" if row.delivered else "voided",
            outcome=Outcome.INTERNAL,
            code="internal",
            http_status=200 if row.delivered else 500,
            finish_reason="",
            attempt=row.attempt,
            usage=usage,
            source=source,
            lines=lines,
            first_byte_at=None,
            settled_at=now_us(),
            audit_record=_audit_record(row, usage, source, sum(line.amount for line in lines)),
        )
        await self._journal.settlements.put(settlement)
        _LOG.info("recovered %s: %s, %s", row.request_id, settlement.state, source)
        await self._holds.release(Release(row.request_id, row.tenant_id, row.period, usage.total, settlement.micro_yen))

    async def _sweep(self, now: float) -> None:
        """End holds that nobody will end: their row is final, or their process died before it wrote one."""
        old = now_us() // 1_000_000 - HOLD_AGE_S_MIN
        batch: list[HeldEntry] = []
        async for entry in self._holds.entries():
            if entry.held_at <= old:
                batch.append(entry)
            if len(batch) == BATCH_ROWS:
                await self._end_holds(batch, now)
                batch = []
        await self._end_holds(batch, now)

    async def _end_holds(self, entries: list[HeldEntry], now: float) -> None:
        if not entries:
            return
        rows = await finals(self._link, [entry.request_id for entry in entries])
        rowless = now_us() // 1_000_000 - ROWLESS_HOLD_S_MAX
        for entry in entries:
            row = rows.get(entry.request_id)
            if row is not None and row.final:
                tokens, micro_yen = row.tokens, row.micro_yen
            elif row is None and (entry.held_at < rowless or not self._liveness.alive(entry.instance_id, now)):
                tokens, micro_yen = 0, 0
            else:
                continue
            await self._holds.release(Release(entry.request_id, entry.tenant_id, entry.period, tokens, micro_yen))
            _LOG.info("ended the hold of %s", entry.request_id)


async def _step(name: str, work: Awaitable[object]) -> None:
    """One step of a round; what goes wrong in it is told and does not keep the others from their turn."""
    try:
        await work
    except Exception as error:
        _LOG.warning("%s given up, the next round repeats it: %r", name, error, exc_info=not _expected(error))


def _expected(error: Exception) -> bool:
    return isinstance(error, OSError | PostgresError | RedisError)


def _audit_record(row: Unfinished, usage: Usage, source: UsageSource, micro_yen: int) -> str:
    return AuditRecord(
        request=row.request_id,
        tenant=row.tenant_id,
        key=row.key_id,
        model=row.model,
        action=row.action,
        outcome=Outcome.INTERNAL,
        code="internal",
        http=200 if row.delivered else 500,
        rule=row.rule_id.removeprefix(f"{row.licence_id}/"),
        licence=f"{row.licence_id}@{row.licence_version}",
        epoch=row.epoch,
        micro_yen=micro_yen,
        source=source,
        at=row.opened_at,
        verb="request:recover",
        prompt=usage.prompt,
        cached=usage.cached,
        completion=usage.completion,
        reasoning=usage.reasoning,
    ).canonical()


def work(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT; returns 0."""
    return asyncio.run(_work(settings))


async def _work(settings: Settings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    worker = Worker(settings)
    outbox = Outbox(settings.database_url, HANDLERS)
    books = Books(settings.database_url, worker.witness)
    deliverer = Deliverer(settings.database_url, KeyFiles(settings.data_dir), settings.webhook_networks)
    try:
        await asyncio.gather(
            worker.run(stop),
            deliverer.run(stop),
            _every(stop, OUTBOX_EVERY_S, "outbox", outbox.consume),
            _every(stop, BOOKS_EVERY_S, "books", books.round),
        )
    finally:
        await outbox.close()
        await books.close()
        await worker.close()
        await deliverer.close()
    return 0


async def _every(stop: asyncio.Event, period_s: float, name: str, work: Callable[[], Awaitable[object]]) -> None:
    """`work` beside the leader's rounds, which it must never delay, until `stop` is set."""
    while not stop.is_set():
        await _step(name, work())
        try:
            await asyncio.wait_for(stop.wait(), period_s)
        except TimeoutError:
            continue
