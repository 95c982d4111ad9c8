"""`sekisho worker`: finishes what dead processes left, ends stray holds, reconciles the books, delivers webhooks.

One worker of all leads (an advisory lock of PostgreSQL, held by its connection, so it is free again the moment the
leader dies); the others wait. Every step is idempotent: a leader killed in the middle is repeated by the next.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from asyncpg import PostgresError
from redis.exceptions import RedisError

from billing.journal import Journal
from billing.link import Link
from billing.outbox import Handler, Outbox
from billing.recovery import owners
from billing.spool import replay
from gateway.books import Books
from gateway.limits import soft
from gateway.limits.holds import Holds
from gateway.settings import Settings
from gateway.tenancy.keystore import KeyFiles
from gateway.upstreams.client import UpstreamClient
from gateway.upstreams.witness import Witness
from gateway.webhooks.deliver import Deliverer
from gateway.work.liveness import Liveness
from gateway.work.recover import Recovery
from gateway.work.steps import every, step
from gateway.work.sweep import Sweep
from gateway.work.tidy import TIDY_EVERY_S, Tidy

_LOG = logging.getLogger(__name__)

TICK_S = 0.5
SWEEP_EVERY_S = 2.0
OUTBOX_EVERY_S = 0.5
BOOKS_EVERY_S = 1.0
NIGHTLY_EVERY_S = 60.0
_LEADER_LOCK = 0x5E_C1_51

# What follows from the rows of the outbox, by their kind.
HANDLERS: Mapping[str, Handler] = {"usage": soft.handle}

_INSTANCES = "SELECT instance_id, heartbeat_at::text AS heartbeat_at FROM instance"


class Worker:
    """The leader's rounds."""

    def __init__(self, settings: Settings) -> None:
        self._link = Link(settings.database_url)
        self._lock_link = Link(settings.database_url)
        self._journal = Journal(settings.database_url)
        self.holds = Holds(settings.valkey_url, settings.database_url, admits=False)
        self._client = UpstreamClient(settings.timeouts)
        self.witness = Witness(self._client, settings.witness_token_file)
        self._spool_dir = settings.spool_dir
        self._liveness = Liveness()
        self._recovery = Recovery(self._link, self._journal, self.holds, self.witness)
        self._sweep = Sweep(self._link, self._journal, self.holds, self._liveness)
        self._next_sweep = 0.0

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
        await self.holds.close()
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
        # Before recovery judges rows by less than what their process had on disk.
        await step("spool", replay(self._spool_dir, self._journal))
        dead = [one for one in sorted(await owners(self._link)) if not self._liveness.alive(one, now)]
        await self._recovery.run(dead, now)
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_EVERY_S
            await step("sweep", self._sweep.run(now))


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
    tidy = Tidy(settings.database_url, worker.holds)
    deliverer = Deliverer(settings.database_url, KeyFiles(settings.data_dir), settings.webhook_networks)
    try:
        await asyncio.gather(
            worker.run(stop),
            deliverer.run(stop),
            every(stop, OUTBOX_EVERY_S, "outbox", outbox.more),
            every(stop, BOOKS_EVERY_S, "books", books.round),
            every(stop, NIGHTLY_EVERY_S, "reconciliation", lambda: books.nightly(datetime.now(UTC))),
            every(stop, TIDY_EVERY_S, "tidying", tidy.round),
        )
    finally:
        await outbox.close()
        await books.close()
        await tidy.close()
        await worker.close()
        await deliverer.close()
    return 0
