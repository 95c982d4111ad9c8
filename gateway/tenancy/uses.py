"""When a credential was last used, written every few seconds for all of them together."""

import asyncio
import logging
from collections.abc import Callable, Mapping

import msgspec
from asyncpg import PostgresError

from billing.link import Link

_LOG = logging.getLogger(__name__)

FLUSH_S = 5.0

_STORE = """
INSERT INTO credential_use (credential_id, last_used_at)
SELECT key, from_micros(value::text::bigint) FROM json_each($1::json) ORDER BY key
ON CONFLICT (credential_id) DO UPDATE SET last_used_at = greatest(credential_use.last_used_at, excluded.last_used_at)
"""


class CredentialUses:
    """Stores what `drain` gives: credential → time of its last use in microseconds since the epoch."""

    def __init__(self, dsn: str, drain: Callable[[], Mapping[str, int]]) -> None:
        self._link = Link(dsn, synchronous=False)
        self._drain = drain
        self._waiting: dict[str, int] = {}

    async def run(self) -> None:
        """Store until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Store now; what cannot be stored is kept for the next time."""
        self._waiting.update(self._drain())
        if not self._waiting:
            return
        try:
            await self._link.fetch(_STORE, msgspec.json.encode(self._waiting).decode())
            self._waiting.clear()
        except (OSError, PostgresError) as error:
            _LOG.warning("last uses wait for the database: %r", error)

    async def close(self) -> None:
        """Store what is left and close the connection."""
        await self.flush()
        await self._link.close()
