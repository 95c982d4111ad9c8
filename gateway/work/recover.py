"""Recovery's hands: the rows that dead processes left are settled by the rules of `billing.recovery`."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from asyncpg import PostgresError

from billing.journal import Journal
from billing.link import Link
from billing.rating import rate
from billing.recovery import Unfinished, unfinished
from billing.types import Outcome, Settlement, Usage, UsageSource
from gateway.audit.record import AuditRecord
from gateway.clock import now_us
from gateway.limits.holds import Holds, Release
from gateway.upstreams.witness import EngineRecord, Witness
from gateway.work.patience import Patience
from gateway.work.steps import step

_LOG = logging.getLogger(__name__)

BATCH_ROWS = 1_000
QUESTIONS_MAX = 50
"""Questions to one engine at a time."""


class Recovery:
    """Of the leader."""

    def __init__(self, link: Link, journal: Journal, holds: Holds, witness: Witness) -> None:
        self._link = link
        self._journal = journal
        self._holds = holds
        self._witness = witness
        self._patience = Patience()
        self._refused: set[str] = set()

    async def run(self, instance_ids: Sequence[str], now: float) -> None:
        """All rows of dead processes, oldest first, at the monotonic time `now` (seconds)."""
        silent: set[str] = set()  # an engine that does not answer is waited for once a round, not once a row
        for instance_id in instance_ids:
            await step("recovery", self._instance(instance_id, silent, now))
        self._patience.round_ended()

    async def _instance(self, instance_id: str, silent: set[str], now: float) -> None:
        after = ""
        while rows := await unfinished(self._link, instance_id, BATCH_ROWS, after):
            records = await self._records(rows, silent)
            # All at once, so that they share commits; one that cannot be settled stops no other.
            work = (self._recover(row, records.get(row.attempt_id), now) for row in rows)
            wrong = [error for error in await asyncio.gather(*work, return_exceptions=True) if error is not None]
            if wrong:
                raise wrong[0]
            if len(rows) < BATCH_ROWS:
                return
            after = rows[-1].request_id

    async def _records(self, rows: Sequence[Unfinished], silent: set[str]) -> Mapping[str, EngineRecord | None]:
        """What the engines say of the rows that were delivered, by attempt id."""
        asked: dict[str, list[str]] = {}
        for row in rows:
            if row.delivered and row.witness_url is not None:
                asked.setdefault(row.witness_url, []).append(row.attempt_id)
        found: dict[str, EngineRecord | None] = {}
        await asyncio.gather(*(self._ask(url, attempts, silent, found) for url, attempts in asked.items()))
        return found

    async def _ask(
        self, witness_url: str, attempt_ids: Sequence[str], silent: set[str], found: dict[str, EngineRecord | None]
    ) -> None:
        for start in range(0, len(attempt_ids), QUESTIONS_MAX):
            if witness_url in silent:
                return
            part = attempt_ids[start : start + QUESTIONS_MAX]
            answers = await asyncio.gather(*(self._witness.ask(witness_url, attempt_id) for attempt_id in part))
            found.update(zip(part, answers, strict=True))
            if all(answer is None for answer in answers):
                silent.add(witness_url)

    async def _recover(self, row: Unfinished, record: EngineRecord | None, now: float) -> None:
        """One row, if it is time. One that cannot be settled is kept for a person."""
        counted = self._count(row, record, now)
        if counted is None or row.request_id in self._refused:
            return
        try:
            await self._settle(row, *counted)
        except (PostgresError, ValueError, LookupError) as error:
            self._refused.add(row.request_id)
            _LOG.critical("row %s cannot be recovered (%s, %s): %r", row.request_id, *counted, error)

    def _count(self, row: Unfinished, record: EngineRecord | None, now: float) -> tuple[Usage, UsageSource] | None:
        """Usage and who counted it; None to ask again next round."""
        if not row.delivered:
            return Usage(), "none"
        if row.witness_url is not None:
            if record is not None and record.state in ("finished", "aborted"):
                return record.usage, "witness"
            if not self._patience.ended(row.attempt_id, None if record is None else record.state, now):
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
            only_if=row.state,
        )
        if not await self._journal.settlements.put(settlement):
            return  # its process lives after all, and has taken it further or settled it
        _LOG.info("recovered %s: %s, %s", row.request_id, settlement.state, source)
        await self._release(Release(row.request_id, row.tenant_id, row.period, usage.total, settlement.micro_yen))

    async def _release(self, release: Release) -> None:
        try:
            await self._holds.release(release)
        except Exception as error:
            _LOG.warning("hold of %s is left to the sweep: %r", release.request_id, error)


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
