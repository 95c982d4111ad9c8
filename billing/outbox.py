"""The outbox: what is to follow from a transaction, written down in it, and consumed in the transaction of its effect.

Rows are taken by delete, never by "id greater than the last": ids become visible in another order than they are given.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg

_LOG = logging.getLogger(__name__)

BATCH_ROWS = 500
CONNECT_S_MAX = 2.0
COMMAND_S_MAX = 15.0

Handler = Callable[[Any, Sequence[Any]], Awaitable[None]]
"""Takes the connection and the rows (`id`, `tenant_id`, `request_id`, `payload`); what it writes stands or falls with
their deletion. Raises `asyncpg.PostgresError` for rows that it cannot take."""

_TAKE = """
DELETE FROM outbox WHERE id IN (
  SELECT id FROM outbox WHERE kind = $1 AND id <> ALL ($3::bigint[]) ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING id, tenant_id, request_id, payload::text AS payload
"""


class Outbox:
    """Consumes the rows of the kinds that somebody handles. Rows of other kinds stay."""

    def __init__(self, dsn: str, handlers: Mapping[str, Handler]) -> None:
        self._dsn = dsn
        self._handlers = handlers
        self._connection: Any = None
        self._refused: set[int] = set()

    async def consume(self) -> int:
        """Handle what is there, at most a batch of each kind; returns how many rows. Raises `OSError` or
        `asyncpg.PostgresError` when the database is away: then nothing has happened."""
        connection = await self._connected()
        try:
            return sum([await self._some(connection, kind) for kind in self._handlers])
        except Exception:
            self._connection = None  # whatever state it is in now
            connection.terminate()
            raise

    async def more(self) -> bool:
        """`consume`, and whether there may be more."""
        return await self.consume() >= BATCH_ROWS

    async def close(self) -> None:
        """Close the connection; a later `consume` opens it again."""
        if self._connection is not None and not self._connection.is_closed():
            await self._connection.close(timeout=CONNECT_S_MAX)
        self._connection = None

    async def _some(self, connection: Any, kind: str) -> int:
        try:
            return await self._take(connection, kind, BATCH_ROWS)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError, LookupError):
            _LOG.warning("a batch of %s is handled row by row", kind, exc_info=True)
        done = 0
        for _ in range(BATCH_ROWS):
            before = len(self._refused)
            taken = await self._alone(connection, kind)
            done += taken
            if not taken and len(self._refused) == before:
                break
        return done

    async def _alone(self, connection: Any, kind: str) -> int:
        """The next row by itself. One that cannot be handled stays, for a person, and stops no other."""
        row_id = await connection.fetchval(
            "SELECT min(id) FROM outbox WHERE kind = $1 AND id <> ALL ($2::bigint[])", kind, list(self._refused)
        )
        if row_id is None:
            return 0
        try:
            return await self._take(connection, kind, 1)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError, LookupError) as error:
            self._refused.add(row_id)
            _LOG.critical("row %d of the outbox (%s) cannot be handled: %r", row_id, kind, error)
            return 0

    async def _take(self, connection: Any, kind: str, limit: int) -> int:
        async with connection.transaction():
            rows = await connection.fetch(_TAKE, kind, limit, list(self._refused))
            if rows:
                await self._handlers[kind](connection, rows)
            return len(rows)

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._dsn,
                timeout=CONNECT_S_MAX,
                command_timeout=COMMAND_S_MAX,
                server_settings={"application_name": "sekisho-outbox", "role": "sekisho_app", "timezone": "UTC"},
            )
        return self._connection
