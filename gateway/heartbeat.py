"""A process says every second that it lives; the worker finishes the work of those that stopped saying so."""

import asyncio
import logging
import time

from asyncpg import PostgresError

from billing.link import Link

_LOG = logging.getLogger(__name__)

BEAT_S = 1.0
# Longer between two heartbeats: the database was away, or this process was, and others may look dead for that alone.
GAP_S_MAX = 2.0

# The book's own time moves the mark below which no clock is believed (see `gateway.clock`): by the database's clock, so
# that one machine whose clock is ahead cannot lock out all others.
_BEAT = """
WITH mark AS (UPDATE clock_mark SET highest_at = now() WHERE highest_at < now())
INSERT INTO instance (instance_id, kind) VALUES ($1, $2)
ON CONFLICT (instance_id) DO UPDATE SET heartbeat_at = now()
"""


class Heartbeat:
    """The `instance` row of one process."""

    def __init__(self, dsn: str, instance_id: str, kind: str) -> None:
        # Well below the time after which the worker takes a silent process for dead.
        self._link = Link(dsn, synchronous=False, command_s_max=BEAT_S)
        self._instance_id = instance_id
        self._kind = kind
        self._steady_since = self._beat_at = float("-inf")

    async def beat(self) -> None:
        """Say it once. Raises `StoreUnavailable`."""
        await self._link.fetch(_BEAT, self._instance_id, self._kind)
        now = time.monotonic()
        if now - self._beat_at > GAP_S_MAX:
            self._steady_since = now
        self._beat_at = now

    def steady_s(self) -> float:
        """For how many seconds the database has taken the heartbeats of this process without a gap; 0 within one."""
        now = time.monotonic()
        return now - self._steady_since if now - self._beat_at <= GAP_S_MAX else 0.0

    async def run(self) -> None:
        """Say it until cancelled."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await self.beat()
            except (OSError, PostgresError) as error:
                _LOG.warning("heartbeat not written: %r", error)

    async def retire(self) -> None:
        """This process has ended in order: what it left unfinished may be recovered at once."""
        try:
            await self._link.fetch(
                "UPDATE instance SET heartbeat_at = '-infinity' WHERE instance_id = $1", self._instance_id
            )
        except (OSError, PostgresError) as error:
            _LOG.warning("heartbeat not retired: %r", error)
        await self._link.close()
