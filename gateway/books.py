"""The platform's side of the books: reads what the engines recorded, judges it against the journal, reconciles nightly.

Every step is idempotent, so any number of workers may take it. `docs/operations.md` says what an operator does about a
finding.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec

from billing import witnessed
from billing.link import Link
from billing.reconcile import Reconciliation, reconcile
from gateway.upstreams.witness import PAGE_RECORDS_MAX, Witness

_LOG = logging.getLogger(__name__)

PAGES_MAX = 20  # of one file in one round, so that a long record delays no other
NIGHT = ZoneInfo("Asia/Tokyo")
NIGHTLY_HOUR = 3  # what began before midnight is final by then
RECONCILE_S_MAX = 600.0
DAYS_LATE_MAX = 31

_UPSTREAMS = "SELECT upstream_id, witness_url FROM upstream WHERE witness_url IS NOT NULL ORDER BY upstream_id"
_LAST = "SELECT max(day) AS day FROM reconcile_run"
_RECORD = """
INSERT INTO reconcile_run (day, findings, report) VALUES ($1, $2, $3::jsonb) ON CONFLICT (day) DO NOTHING RETURNING day
"""


@dataclass(frozen=True, slots=True)
class _Upstream:
    upstream_id: str
    witness_url: str


class Books:
    """One worker's share of it."""

    def __init__(self, dsn: str, witness: Witness) -> None:
        self._link = Link(dsn)
        self._slow_link = Link(dsn, command_s_max=RECONCILE_S_MAX)
        self._witness = witness

    async def round(self) -> bool:
        """Read, and judge a batch; returns whether there is more to judge. Raises `OSError` or `PostgresError` when
        the database is away."""
        await self.read()
        return await witnessed.judge(self._link) == witnessed.JUDGED_ROWS_MAX

    async def read(self) -> None:
        """Take over what the engines have recorded since the last time; an engine that does not answer delays none."""
        upstreams = [_Upstream(**row) for row in map(dict, await self._link.fetch(_UPSTREAMS))]
        await asyncio.gather(*(self._read(upstream) for upstream in upstreams))

    async def _read(self, upstream: _Upstream) -> None:
        files = await self._witness.files(upstream.witness_url)
        if files is None:
            return
        places = await witnessed.cursors(self._link, upstream.upstream_id)
        for file in files:
            after = places.get(file.file, 0)
            for _ in range(PAGES_MAX):
                if after >= file.size:
                    break
                page = await self._witness.page(upstream.witness_url, file.file, after, PAGE_RECORDS_MAX)
                if page is None or page.next == after:
                    break
                await witnessed.store(self._link, upstream.upstream_id, file.file, page.next, page.records)
                after = page.next

    async def nightly(self, now: datetime) -> list[Reconciliation]:
        """Reconcile yesterday (Asia/Tokyo) from 03:00 on, and what days before it were missed, oldest first; returns
        the findings of each. Where none was ever reconciled, yesterday is the first."""
        local = now.astimezone(NIGHT)
        if local.hour < NIGHTLY_HOUR:
            return []
        yesterday = local.date() - timedelta(days=1)
        (last,) = await self._slow_link.fetch(_LAST)
        following = yesterday if last["day"] is None else last["day"] + timedelta(days=1)
        day = max(following, yesterday - timedelta(days=DAYS_LATE_MAX))
        if day > following:
            _LOG.critical("the books of %s to %s were never reconciled: run sekisho reconcile", following, day)
        return [await self._day(day + timedelta(days=n)) for n in range((yesterday - day).days + 1)]

    async def _day(self, day: date) -> Reconciliation:
        found = await reconcile(self._slow_link, midnight(day), midnight(day + timedelta(days=1)))
        report = msgspec.json.encode(found).decode()
        if await self._slow_link.fetch(_RECORD, day, len(found.findings), report):
            for finding in found.findings:
                _LOG.critical("books of %s: %s, %d, such as %s", day, finding.code, finding.count, finding.examples[0])
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()
        await self._slow_link.close()


def midnight(day: date) -> datetime:
    """When `day` begins in Asia/Tokyo."""
    return datetime.combine(day, time(), NIGHT)
