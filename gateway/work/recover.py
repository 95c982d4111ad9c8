"""Recovery's hands: the rows that a dead process left are settled by the rules of `billing.recovery`."""

import asyncio
import logging

from asyncpg import PostgresError

from billing.journal import Journal
from billing.link import Link
from billing.rating import rate
from billing.recovery import Unfinished, unfinished
from billing.types import Outcome, Settlement, Usage, UsageSource
from gateway.audit.record import AuditRecord
from gateway.clock import now_us
from gateway.limits.holds import Holds, Release
from gateway.upstreams.witness import Witness
from gateway.work.liveness import Liveness

_LOG = logging.getLogger(__name__)

WITNESS_WAIT_S_MAX = 10.0
BATCH_ROWS = 100


class Recovery:
    """Of the leader."""

    def __init__(self, link: Link, journal: Journal, holds: Holds, witness: Witness, liveness: Liveness) -> None:
        self._link = link
        self._journal = journal
        self._holds = holds
        self._witness = witness
        self._liveness = liveness
        self._refused: set[str] = set()

    async def run(self, instance_id: str, now: float) -> None:
        """Some of the rows of a dead process, oldest first, at the monotonic time `now` (seconds)."""
        rows = await unfinished(self._link, instance_id, BATCH_ROWS)
        if not rows:
            return
        patient = self._liveness.dead_for(instance_id, now) < WITNESS_WAIT_S_MAX
        # All at once: an engine whose host hangs costs one time-out a round, not one per row.
        counts = await asyncio.gather(*(self._count(row, patient) for row in rows))
        for row, counted in zip(rows, counts, strict=True):
            if counted is not None and row.request_id not in self._refused:
                await self._settle_or_bury(row, *counted)

    async def _settle_or_bury(self, row: Unfinished, usage: Usage, source: UsageSource) -> None:
        """One row that cannot be settled is kept for a person and stops no other."""
        try:
            await self._settle(row, usage, source)
        except (PostgresError, ValueError, LookupError) as error:
            self._refused.add(row.request_id)
            _LOG.critical("row %s cannot be recovered (%s, %s): %r", row.request_id, usage, source, error)

    async def _count(self, row: Unfinished, patient: bool) -> tuple[Usage, UsageSource] | None:
        """Usage and who counted it; None to ask again next round."""
        if not row.delivered:
            return Usage(), "none"
        if row.witness_url is not None:
            record = await self._witness.ask(row.witness_url, f"{row.request_id}-{row.attempt}")
            if record is not None and record.state in ("finished", "aborted"):
                return record.usage, "witness"
            if patient:
                return None
        return (row.checkpoint, "checkpoint") if row.checkpoint is not None else (Usage(), "none")

    async def _settle(self, row: Unfinished, usage: Usage, source: UsageSource) -> None:
        card = row.card
        if card is None and source != "none":
            raise LookupError(f"rate card {row.rate_card_id} of {row.request_id} is missing")
        lines = () if card is None or source == "none" else rate(usage, card)
        settlement = Settlement(
            request_id=row.request_id,
            tenant_id=row.tenant_id,
            state="recovered" if row.delivered else "voided",
            outcome=Outcome.INTERNAL,
            code="internal",
            http_status=200 if row.delivered else 500,
            finish_reason="",
            attempt=row.attempt,
            usage=usage,
            source=source,
            lines=lines,
            first_byte_at=None,
            settled_at=now_us(),
            audit_record=_audit_record(row, usage, source, sum(line.amount for line in lines)),
        )
        await self._journal.settlements.put(settlement)
        _LOG.info("recovered %s: %s, %s", row.request_id, settlement.state, source)
        await self._holds.release(Release(row.request_id, row.tenant_id, row.period, usage.total, settlement.micro_yen))


def _audit_record(row: Unfinished, usage: Usage, source: UsageSource, micro_yen: int) -> str:
    return AuditRecord(
        request=row.request_id,
        tenant=row.tenant_id,
        key=row.key_id,
        model=row.model,
        action=row.action,
        outcome=Outcome.INTERNAL,
        code="internal",
        http=200 if row.delivered else 500,
        rule=row.rule_id.removeprefix(f"{row.licence_id}/"),
        licence=f"{row.licence_id}@{row.licence_version}",
        epoch=row.epoch,
        micro_yen=micro_yen,
        source=source,
        at=row.opened_at,
        verb="request:recover",
        prompt=usage.prompt,
        cached=usage.cached,
        completion=usage.completion,
        reasoning=usage.reasoning,
    ).canonical()
