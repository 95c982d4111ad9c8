"""Connections for questions that take long, apart from those of requests: a few, and one at a time for each tenant."""

import asyncio
from typing import Any
from weakref import WeakValueDictionary

from billing.links import Links

LINKS = 4
QUESTION_S_MAX = 20.0


class Queries:
    """Who asks for a year of usage waits for itself and keeps nobody else waiting."""

    def __init__(self, dsn: str) -> None:
        self._links = Links(dsn, LINKS, command_s_max=QUESTION_S_MAX)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, tenant_id: str) -> "Turn":
        """Where this tenant's questions are asked."""
        return Turn(self._links, self._turns.setdefault(tenant_id, asyncio.Lock()))

    async def close(self) -> None:
        """Close the connections."""
        await self._links.close()


class Turn:
    """Asks one question after the other, on whatever connection is free."""

    def __init__(self, links: Links, lock: asyncio.Lock) -> None:
        self._links, self._lock = links, lock

    async def fetch(self, query: str, *arguments: object) -> list[Any]:
        """As `Link.fetch`."""
        async with self._lock:
            return await self._links.fetch(query, *arguments)
