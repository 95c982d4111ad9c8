"""Reading a tenant's month from the journal, for whichever store does not know it: on connections of their own, with
time of their own, once for all who ask.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

from billing.link import StoreUnavailable
from billing.links import Links
from gateway.limits.types import Unknown

_LOG = logging.getLogger(__name__)

# So many, that a tenant with a long month does not keep all others waiting.
AT_ONCE_MAX = 4
# A month of ten million requests takes some ten seconds.
FILL_S_MAX = 120.0
# How long a request waits for it. The reading goes on without it.
WAIT_S_MAX = 5.0
# A plan is chosen by the rows that it reads and not by how they lie on disk: so what is asked of one tenant is read by
# an index that begins with the tenant. By the costs of disks a generic plan prefers the order of time, which is that of
# all tenants' rows.
BY_ROWS = {"seq_page_cost": "0", "random_page_cost": "0"}


class Fills:
    """Connections for reading months, and who reads which. Must be built inside a running event loop."""

    def __init__(self, dsn: str) -> None:
        self._links = Links(dsn, AT_ONCE_MAX, command_s_max=FILL_S_MAX, settings=BY_ROWS)
        self._filling: dict[Hashable, asyncio.Task[None]] = {}

    async def fetch(self, query: str, *arguments: object) -> list[Any]:
        """As `Link.fetch`, on the first connection that is free."""
        return await self._links.fetch(query, *arguments)

    async def once(self, key: Hashable, fill: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `fill`; all who ask with the same `key` meanwhile wait for one. Raises what it raises, and
        `StoreUnavailable` when it takes longer than a request waits: it goes on all the same."""
        filling = self._filling.get(key)
        if filling is None:
            filling = self._filling[key] = asyncio.create_task(fill())
            filling.add_done_callback(lambda ended: self._end(key, ended))
        await asyncio.wait({filling}, timeout=WAIT_S_MAX)
        if not filling.done():
            raise StoreUnavailable("PostgreSQL: the month is still being read")
        filling.result()

    def _end(self, key: Hashable, ended: asyncio.Task[None]) -> None:
        del self._filling[key]
        error = None if ended.cancelled() else ended.exception()
        if error is not None and not isinstance(error, Unknown):
            _LOG.warning("a month could not be read (%s): %r", key, error)

    async def close(self) -> None:
        """Give up what is being read, and close the connections."""
        filling = list(self._filling.values())
        for task in filling:
            task.cancel()
        await asyncio.gather(*filling, return_exceptions=True)
        await self._links.close()
