"""Keeps the snapshot fresh: one small query every 250 ms, sooner when PostgreSQL says so; changed rows are read."""

import asyncio
import logging
import time
from collections.abc import Callable

from asyncpg import PostgresError

from billing.link import Link, StoreUnavailable
from gateway.clock import Clock
from gateway.faults import Fault
from gateway.tenancy.push import ConfigPush
from gateway.tenancy.snapshot import Snapshot
from gateway.tenancy.store import Configuration, read_epoch

_LOG = logging.getLogger(__name__)

POLL_S = 0.25
STALE_S_MAX = 5.0


class SnapshotWatch:
    """Holds the current snapshot. After 5 s without a successful poll it is stale: not ready, and every request is
    denied, because a revocation could have been missed.

    `review` is called after every poll with the snapshot then in force: running requests are judged again by it.
    """

    def __init__(self, dsn: str, clock: Clock, review: Callable[[Snapshot], None] = lambda _: None) -> None:
        self._link = Link(dsn)
        self._push = ConfigPush(dsn)
        self._clock = clock
        self._review = review
        self._configuration = Configuration()
        self._snapshot = Snapshot(epoch=0)
        self._seen = float("-inf")

    @property
    def fresh(self) -> bool:
        """Whether the last successful poll is recent enough to decide by."""
        return time.monotonic() - self._seen < STALE_S_MAX

    def current(self) -> Snapshot:
        """The snapshot to decide by. Raises `Fault` with `store_unavailable` when it is stale, with `clock_behind` when
        this machine's clock cannot be believed."""
        if not self.fresh:
            raise Fault("store_unavailable", retry_after_s=1, internal="configuration is stale")
        if self._clock.behind:
            raise Fault("clock_behind", retry_after_s=5)
        return self._snapshot

    async def run(self) -> None:
        """Poll until cancelled."""
        push = asyncio.create_task(self._push.run())
        try:
            while True:
                await self._round()
        finally:
            push.cancel()
            await asyncio.gather(push, return_exceptions=True)

    async def _round(self) -> None:
        try:
            await self.poll()
            self._review(self._snapshot)
        except (StoreUnavailable, PostgresError) as error:
            _LOG.warning("configuration could not be read: %s", error)
        except Exception:
            _LOG.exception("configuration could not be read")  # stale after 5 s, and read again until it can be
        try:
            async with asyncio.timeout(POLL_S):
                await self._push.changed.wait()
        except TimeoutError:
            pass
        self._push.changed.clear()

    async def poll(self) -> None:
        """Read the epoch, and what changed if it moved."""
        started = time.monotonic()
        epoch = await read_epoch(self._link)
        self._clock.learn(epoch.highest_at)
        if self._configuration.stale(epoch):
            self._snapshot = await self._configuration.read(self._link)
        self._seen = started

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()
