"""The sweep: holds that nobody will end are ended; their row is final, or their process died before it wrote one."""

import asyncio
import logging

from billing.journal import Journal
from billing.link import Link
from billing.recovery import finals
from billing.types import Outcome, Refusal
from gateway.audit.record import AuditRecord
from gateway.clock import now_us
from gateway.limits.holds import HeldEntry, Holds, Release
from gateway.work.liveness import Liveness

_LOG = logging.getLogger(__name__)

HOLD_AGE_S_MIN = 5
# A living process writes the row right after the hold; a hold without one is left of an answer that got lost.
ROWLESS_HOLD_S_MAX = 60
BATCH_ROWS = 100


class Sweep:
    """Of the leader."""

    def __init__(self, link: Link, journal: Journal, holds: Holds, liveness: Liveness) -> None:
        self._link = link
        self._journal = journal
        self._holds = holds
        self._liveness = liveness

    async def run(self, now: float) -> None:
        """Look at every hold that is old enough, at the monotonic time `now` (seconds)."""
        old = now_us() // 1_000_000 - HOLD_AGE_S_MIN
        batch: list[HeldEntry] = []
        async for entry in self._holds.entries():
            if entry.held_at <= old:
                batch.append(entry)
            if len(batch) == BATCH_ROWS:
                await self._end_holds(batch, now)
                batch = []
        await self._end_holds(batch, now)

    async def _end_holds(self, entries: list[HeldEntry], now: float) -> None:
        if not entries:
            return
        rows = await finals(self._link, [entry.request_id for entry in entries])
        voided = await self._void(
            [entry for entry in entries if entry.request_id not in rows and self._over(entry, now)]
        )
        for entry in entries:
            row = rows.get(entry.request_id)
            if row is not None and row.final:
                tokens, micro_yen = row.tokens, row.micro_yen
            elif entry.request_id in voided:
                tokens, micro_yen = 0, 0
            else:
                continue
            await self._holds.release(Release(entry.request_id, entry.tenant_id, entry.period, tokens, micro_yen))
            _LOG.info("ended the hold of %s", entry.request_id)

    def _over(self, entry: HeldEntry, now: float) -> bool:
        """Whether a row of this request is not to be expected any more."""
        return entry.held_at < now_us() // 1_000_000 - ROWLESS_HOLD_S_MAX or not self._liveness.alive(
            entry.instance_id, now
        )

    async def _void(self, entries: list[HeldEntry]) -> set[str]:
        """The requests that never had a row and never will: its process may only have slept, and would deliver on a
        hold that is given to others by then. One whose row has come meanwhile keeps its hold."""
        answers = await asyncio.gather(
            *(self._journal.voids.put(_voided(entry)) for entry in entries), return_exceptions=True
        )
        for entry, answer in zip(entries, answers, strict=True):
            if isinstance(answer, BaseException):
                _LOG.error("the hold of %s stays, its request cannot be voided: %r", entry.request_id, answer)
        return {entry.request_id for entry, answer in zip(entries, answers, strict=True) if answer is True}


def _voided(entry: HeldEntry) -> Refusal:
    """All that a hold tells of its request."""
    at = now_us()
    return Refusal(
        request_id=entry.request_id, tenant_id=entry.tenant_id, key_id=entry.key_id, project_id="", model="",
        model_version="", action="", purpose="", data_class="", country="", region="", tier="", site="",
        outcome=Outcome.INTERNAL, code="internal", http_status=500, rule_id="", licence_id="", licence_version=0,
        epoch=0, instance_id=entry.instance_id, opened_at=at, audit_record=_audit_record(entry, at),
    )  # fmt: skip


def _audit_record(entry: HeldEntry, at: int) -> str:
    return AuditRecord(
        request=entry.request_id, tenant=entry.tenant_id, key=entry.key_id, model="", action="",
        outcome=Outcome.INTERNAL, code="internal", http=500, rule="", licence="", epoch=0, micro_yen=0, source="none",
        at=at, verb="request:recover", prompt=0, cached=0, completion=0, reasoning=0,
    ).canonical()  # fmt: skip
