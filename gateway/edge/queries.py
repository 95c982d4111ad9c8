"""Connections for questions that take long, apart from those of requests: a few, and one at a time for each tenant."""

import asyncio
from typing import Any
from weakref import WeakValueDictionary

from billing.link import Link

LINKS = 4
QUESTION_S_MAX = 20.0


class Queries:
    """Who asks for a year of usage waits for itself and keeps nobody else waiting."""

    def __init__(self, dsn: str) -> None:
        self._links = [Link(dsn, command_s_max=QUESTION_S_MAX) for _ in range(LINKS)]
        self._free: asyncio.LifoQueue[Link] = asyncio.LifoQueue()  # the last one used has its connection open
        for link in self._links:
            self._free.put_nowait(link)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, tenant_id: str) -> "Turn":
        """Where this tenant's questions are asked."""
        return Turn(self._free, self._turns.setdefault(tenant_id, asyncio.Lock()))

    async def close(self) -> None:
        """Close the connections."""
        for link in self._links:
            await link.close()


class Turn:
    """Asks one question after the other, on whatever connection is free."""

    def __init__(self, free: "asyncio.LifoQueue[Link]", lock: asyncio.Lock) -> None:
        self._free, self._lock = free, lock

    async def fetch(self, query: str, *arguments: object) -> list[Any]:
        """As `Link.fetch`."""
        async with self._lock:
            link = await self._free.get()
            try:
                return await link.fetch(query, *arguments)
            finally:
                self._free.put_nowait(link)
