"""A few connections to PostgreSQL for statements that may take long, apart from those of the requests."""

import asyncio
from collections.abc import Mapping
from typing import Any

from billing.link import Link


class Links:
    """`number` connections, each opened on its first use; whoever asks gets the first one that is free. Must be built
    inside a running event loop. Arguments as for `Link`."""

    def __init__(
        self, dsn: str, number: int, *, command_s_max: float, settings: Mapping[str, str] | None = None
    ) -> None:
        self._links = [Link(dsn, command_s_max=command_s_max, settings=settings) for _ in range(number)]
        self._free: asyncio.LifoQueue[Link] = asyncio.LifoQueue()  # the last one used has its connection open
        for link in self._links:
            self._free.put_nowait(link)

    async def fetch(self, query: str, *arguments: object) -> list[Any]:
        """As `Link.fetch`."""
        link = await self._free.get()
        try:
            return await link.fetch(query, *arguments)
        finally:
            self._free.put_nowait(link)

    async def close(self) -> None:
        """Close the connections."""
        for link in self._links:
            await link.close()
