"""Refused requests, and repeats answered with what is kept: a row each up to 20 per second and tenant, an exact count
beyond; never in settlement's way."""

import asyncio
import logging
from collections import Counter

from asyncpg import PostgresError

from billing.journal import Journal, RefusalCount
from gateway.edge.exchange import Exchange

_LOG = logging.getLogger(__name__)

ROWS_PER_S_MAX = 20
WAITING_ROWS_MAX = 2_000
FLUSH_S = 1.0
_SECOND_US = 1_000_000
_MINUTE_US = 60 * _SECOND_US


class Refusals:
    """Counts and rows of refusals. Without a principal there is no row: those are counted per minute, code and
    address prefix, which bounds what an anonymous flood can write."""

    def __init__(self, journal: Journal, instance_id: str) -> None:
        self._journal = journal
        self._instance_id = instance_id
        self._flush = 0
        self._flushing: list[RefusalCount] = []
        self._counts: Counter[tuple[int, str, str, str]] = Counter()
        self._rows: Counter[str] = Counter()
        self._rows_second = 0
        self._waiting = 0

    def note(self, exchange: Exchange) -> None:
        """Record the refusal of `exchange`."""
        code = exchange.code or "internal"
        if exchange.principal is None:
            bucket = exchange.opened_at - exchange.opened_at % _MINUTE_US
            self._counts[bucket, "", code, exchange.origin] += 1
            return
        tenant_id = exchange.principal.tenant_id
        second = exchange.opened_at // _SECOND_US
        if second != self._rows_second:
            self._rows_second = second
            self._rows.clear()
        if self._rows[tenant_id] >= ROWS_PER_S_MAX or self._waiting >= WAITING_ROWS_MAX:
            self._counts[second * _SECOND_US, tenant_id, code, exchange.rule_id] += 1
            return
        self._rows[tenant_id] += 1
        self._waiting += 1
        self._journal.refusals.put(exchange.refusal()).add_done_callback(self._stored)

    def _stored(self, future: "asyncio.Future[bool]") -> None:
        self._waiting -= 1
        if not future.cancelled() and future.exception() is not None:
            _LOG.warning("a refusal was not written: %r", future.exception())

    async def run(self) -> None:
        """Write the counts every second until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Write the counts now; what cannot be written is sent again the next time, as it was: it may stand already."""
        if not self._flushing:
            if not self._counts:
                return
            counts, self._counts = self._counts, Counter()
            self._flushing = [RefusalCount(*key, n) for key, n in counts.items()]
            self._flush += 1
        try:
            await self._journal.count_refusals(self._flushing, self._instance_id, self._flush)
        except (OSError, PostgresError) as error:
            _LOG.warning("refusal counts wait for the database: %r", error)
        else:
            self._flushing = []
