"""One PostgreSQL connection that comes back by itself. Writers own theirs, so no pool is locked per request."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import asyncpg

_LOG = logging.getLogger(__name__)

CONNECT_S_MAX = 2.0
COMMAND_S_MAX = 5.0


# SQLSTATEs (PostgreSQL manual, appendix A) that say nothing about the rows.
_GIVEN_UP = ("40", "55P03", "57014")  # deadlock, serialization failure; lock not had; cancelled
# Connection, a standby by now, a log-in that is refused, no memory, disk or slot left, shutting down, I/O.
_AWAY = ("08", "25006", "28", "3D", "53", "57", "58")


class StoreUnavailable(OSError):
    """PostgreSQL cannot be reached, did not answer in time or cannot work now. Nothing is wrong with the statement."""


class GivenUp(StoreUnavailable):
    """PostgreSQL gave this statement up for the sake of another one. Nothing of it is stored; asked again, alone or
    later, it passes."""


class Link:
    """A connection opened on first use and again after it broke. One statement at a time.

    `synchronous` False trades the flush to disk for latency: what is written survives the death of every process of
    ours; a crash of PostgreSQL itself may lose the last moments (PostgreSQL manual, "Asynchronous Commit"). `settings`
    are those of the session beside its own.
    """

    def __init__(
        self,
        dsn: str,
        *,
        synchronous: bool = True,
        command_s_max: float = COMMAND_S_MAX,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._dsn = dsn
        self._command_s_max = command_s_max
        self._settings = {
            "application_name": "sekisho",
            "role": "sekisho_app",
            "synchronous_commit": "on" if synchronous else "off",
            "timezone": "UTC",
            "jit": "off",
            # Batches of ids against a partitioned table: the primary key is always right, whatever the statistics say,
            # and planning that anew for each batch costs twice as much as running it.
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            "enable_bitmapscan": "off",
            "enable_mergejoin": "off",
            **(settings or {}),
        }
        self._connection: Any = None
        self._lock = asyncio.Lock()

    async def fetch(self, query: str, *arguments: object) -> list[Any]:
        """Run one statement. Raises `GivenUp` when it may be tried again at once, `StoreUnavailable` when the server is
        away, `asyncpg.PostgresError` when it refuses what was asked."""
        async with self._lock:
            try:
                connection = self._connection
                if connection is None or connection.is_closed():
                    connection = self._connection = await asyncpg.connect(
                        self._dsn,
                        timeout=CONNECT_S_MAX,
                        command_timeout=self._command_s_max,
                        server_settings=self._settings,
                    )
                rows: list[Any] = await connection.fetch(query, *arguments)
            except (OSError, EOFError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                # The last is what asyncpg says of a session that was killed in mid-statement.
                await self._drop()
                raise StoreUnavailable(f"PostgreSQL: {error!r}") from error
            except asyncpg.PostgresError as error:
                sqlstate = error.sqlstate or ""
                if sqlstate.startswith(_GIVEN_UP):
                    raise GivenUp(repr(error)) from error
                if sqlstate.startswith(_AWAY):
                    await self._drop()
                    raise StoreUnavailable(f"PostgreSQL: {error!r}") from error
                raise
            except asyncio.CancelledError:
                await self._drop()  # the answer may still come: this connection can no longer be trusted
                raise
            return rows

    async def close(self) -> None:
        """Close the connection; a later `fetch` opens it again."""
        async with self._lock:
            if self._connection is not None and not self._connection.is_closed():
                await self._connection.close(timeout=CONNECT_S_MAX)
            self._connection = None

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _LOG.warning("database connection dropped")
            connection.terminate()
