"""Keeps the snapshot fresh: one small query every 250 ms, a full reading only when the epoch moved."""

import asyncio
import logging
import time

from asyncpg import PostgresError

from billing.link import Link, StoreUnavailable
from gateway.faults import Fault
from gateway.tenancy.snapshot import Snapshot
from gateway.tenancy.store import read_epoch, read_snapshot

_LOG = logging.getLogger(__name__)

POLL_S = 0.25
STALE_S_MAX = 5.0


class SnapshotWatch:
    """Holds the current snapshot. After 5 s without a successful poll it is stale: not ready, and every request is
    denied, because a revocation could have been missed."""

    def __init__(self, dsn: str) -> None:
        self._link = Link(dsn)
        self._snapshot = Snapshot(epoch=0)
        self._seen = float("-inf")

    @property
    def fresh(self) -> bool:
        """Whether the last successful poll is recent enough to decide by."""
        return time.monotonic() - self._seen < STALE_S_MAX

    def current(self) -> Snapshot:
        """The snapshot to decide by. Raises `Fault("store_unavailable")` when it is stale."""
        if not self.fresh:
            raise Fault("store_unavailable", retry_after_s=1, internal="configuration is stale")
        return self._snapshot

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            try:
                await self.poll()
            except (StoreUnavailable, PostgresError) as error:
                _LOG.warning("configuration could not be read: %s", error)
            except Exception:
                _LOG.exception("configuration could not be read")  # stale after 5 s, and read again until it can be
            await asyncio.sleep(POLL_S)

    async def poll(self) -> None:
        """Read the epoch, and everything if it moved."""
        started = time.monotonic()
        if await read_epoch(self._link) != self._snapshot.epoch:
            self._snapshot = await read_snapshot(self._link)
        self._seen = started

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()
