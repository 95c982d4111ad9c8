"""PostgreSQL's word that the configuration changed. It only makes a poll come earlier: a lost one costs 250 ms."""

import asyncio
import logging
from typing import Any

import asyncpg

_LOG = logging.getLogger(__name__)

CHANNEL = "sekisho_config"
RECONNECT_S = 1.0
CHECK_S = 5.0
_CONNECT_S_MAX = 5.0


class ConfigPush:
    """Sets `changed` whenever somebody commits a change of the configuration (LISTEN/NOTIFY)."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled, and again after the connection broke."""
        while True:
            try:
                await self._listen()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                _LOG.info("no notifications of changes, polling goes on: %r", error)
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        connection: Any = await asyncpg.connect(
            self._dsn, timeout=_CONNECT_S_MAX, server_settings={"application_name": "sekisho", "role": "sekisho_app"}
        )
        try:
            await connection.add_listener(CHANNEL, lambda *_: self.changed.set())
            while True:
                await asyncio.sleep(CHECK_S)
                await connection.execute("SELECT 1", timeout=_CONNECT_S_MAX)
        finally:
            connection.terminate()
