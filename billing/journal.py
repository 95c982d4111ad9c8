"""The journal: one row per exchange, opened durably before its first byte leaves, settled once, then frozen.

    open → dispatched → streaming → settled | recovered | voided

Writers with a connection and one statement per batch each; all of them wait for the disk, but refusals.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from billing.group_commit import GroupCommit
from billing.link import Link
from billing.types import OpenRow, Refusal, Settlement, Usage

_LOG = logging.getLogger(__name__)

_OPEN = """
INSERT INTO journal (request_id, tenant_id, key_id, project_id, model, model_version, action, purpose, data_class,
  country, region, tier, site, upstream_id, rule_id, licence_id, licence_version, epoch, rate_card_id, instance_id,
  period, stream, held_tokens, held_micro_yen, state, opened_at)
SELECT g.request_id, g.tenant_id, g.key_id, g.project_id, g.model, g.model_version, g.action, g.purpose, g.data_class,
  g.country, g.region, g.tier, g.site, g.upstream_id, g.rule_id, g.licence_id, g.licence_version, g.epoch,
  g.rate_card_id, g.instance_id, g.period, g.stream, g.held_tokens, g.held_micro_yen, 'open', from_micros(g.opened_at)
FROM json_to_recordset($1::json) AS g(request_id uuid, tenant_id text, key_id text, project_id text, model text,
  model_version text, action text, purpose text, data_class text, country text, region text, tier text, site text,
  upstream_id text, rule_id text, licence_id text, licence_version int, epoch bigint, rate_card_id text,
  instance_id text, period text, stream boolean, held_tokens bigint, held_micro_yen bigint, opened_at bigint)
ORDER BY g.request_id
ON CONFLICT (request_id) DO NOTHING
"""

_MARK = """
WITH given AS (
  SELECT * FROM json_to_recordset($1::json)
  AS g(request_id uuid, attempt smallint, first_byte boolean, sent boolean, usage json, at bigint) ORDER BY request_id
), marked AS (
  UPDATE journal j SET state = 'streaming', attempt = g.attempt, first_byte_at = from_micros(g.at)
  FROM given g
  WHERE j.request_id = ANY (ARRAY(SELECT request_id FROM given WHERE first_byte)) AND j.request_id = g.request_id
    AND g.first_byte AND j.first_byte_at IS NULL AND j.settled_at IS NULL
  RETURNING j.request_id
), noted AS (
  INSERT INTO journal_progress (request_id, attempt, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens,
    image_tokens, audio_tokens)
  SELECT request_id, attempt, (usage->>'prompt')::bigint, (usage->>'cached')::bigint, (usage->>'completion')::bigint,
    (usage->>'reasoning')::bigint, (usage->>'image')::bigint, (usage->>'audio')::bigint
  FROM given WHERE (usage->>'prompt')::bigint > 0
  ON CONFLICT (request_id) DO UPDATE SET attempt = excluded.attempt, prompt_tokens = excluded.prompt_tokens,
    cached_tokens = excluded.cached_tokens, completion_tokens = excluded.completion_tokens,
    reasoning_tokens = excluded.reasoning_tokens, image_tokens = excluded.image_tokens,
    audio_tokens = excluded.audio_tokens, updated_at = now()
), sent AS (
  UPDATE journal j SET state = 'dispatched', attempt = g.attempt
  FROM given g
  WHERE j.request_id = ANY (ARRAY(SELECT request_id FROM given WHERE sent)) AND j.request_id = g.request_id
    AND g.sent AND j.first_byte_at IS NULL AND j.settled_at IS NULL
)
SELECT request_id::text FROM marked
"""

# One statement, therefore one transaction: state, both sides of the ledger, the audit record, what is to follow from it
# (outbox), the end of the progress row. Only a row that is not final yet is touched, so a settlement that is delivered
# twice books once. "Not final" is asked by `settled_at`, not by `state`: that would lead the planner to the index of
# all unfinished rows. The array of ids leads it to the primary key and to the one partition.
#
# The lock on the tenant's account is one that closing a month waits for, and that waits for a closing: what is settled
# while a month is closed is booked after its watermark (docs/decisions/0018-periods-by-watermark.md).
SETTLE = """
WITH given AS (
  SELECT * FROM json_to_recordset($1::json) AS g(request_id uuid, tenant_id text, state text, outcome text, code text,
    http_status smallint, finish_reason text, attempt smallint, usage json, source text, lines json,
    first_byte_at bigint, settled_at bigint, audit_record text, only_if text) ORDER BY request_id
), account AS (
  SELECT a.tenant_id, a.closed_until FROM billing_account a
  WHERE a.tenant_id = ANY (ARRAY(SELECT tenant_id FROM given)) ORDER BY a.tenant_id FOR KEY SHARE
), done AS (
  UPDATE journal j SET state = g.state, outcome = g.outcome, code = g.code, http_status = g.http_status,
    finish_reason = g.finish_reason, attempt = g.attempt, usage_source = g.source,
    micro_yen = (SELECT coalesce(sum((l->>'quantity')::bigint * (l->>'unit_price')::bigint), 0)
      FROM json_array_elements(g.lines) l),
    prompt_tokens = (g.usage->>'prompt')::bigint, cached_tokens = (g.usage->>'cached')::bigint,
    completion_tokens = (g.usage->>'completion')::bigint, reasoning_tokens = (g.usage->>'reasoning')::bigint,
    image_tokens = (g.usage->>'image')::bigint, audio_tokens = (g.usage->>'audio')::bigint,
    first_byte_at = coalesce(from_micros(g.first_byte_at), j.first_byte_at), settled_at = from_micros(g.settled_at),
    booked_at = greatest(from_micros(g.settled_at), a.closed_until)
  FROM given g LEFT JOIN account a ON a.tenant_id = g.tenant_id
  WHERE j.request_id = ANY (ARRAY(SELECT request_id FROM given)) AND j.request_id = g.request_id
    AND j.tenant_id = g.tenant_id AND j.settled_at IS NULL AND coalesce(g.only_if, '') IN ('', j.state)
  RETURNING j.request_id, j.tenant_id, j.model, g.lines, j.booked_at, j.micro_yen, g.audit_record
), booked AS (
  INSERT INTO ledger_entry
    (request_id, line, account, tenant_id, kind, quantity, unit_price, debit, credit, booked_at)
  SELECT d.request_id, l.ordinality, side.account, d.tenant_id, l.line->>'kind', (l.line->>'quantity')::bigint,
    (l.line->>'unit_price')::bigint, side.debit, side.credit, d.booked_at
  FROM done d
  CROSS JOIN LATERAL json_array_elements(d.lines) WITH ORDINALITY AS l(line, ordinality)
  CROSS JOIN LATERAL (SELECT (l.line->>'quantity')::bigint * (l.line->>'unit_price')::bigint AS amount) m
  CROSS JOIN LATERAL (VALUES ('receivable:' || d.tenant_id, m.amount, 0::bigint),
                             ('revenue:' || d.model, 0::bigint, m.amount)) AS side(account, debit, credit)
), told AS (
  INSERT INTO audit_pending (tenant_id, request_id, record)
  SELECT tenant_id, request_id, audit_record FROM done
), noted AS (
  INSERT INTO outbox (kind, tenant_id, request_id) SELECT 'usage', tenant_id, request_id FROM done WHERE micro_yen > 0
), swept AS (
  DELETE FROM journal_progress p USING done d WHERE p.request_id = d.request_id
)
SELECT request_id::text FROM done
"""

_REFUSE = """
WITH given AS (
  SELECT * FROM json_to_recordset($1::json) AS g(request_id uuid, tenant_id text, key_id text, project_id text,
    model text, model_version text, action text, purpose text, data_class text, country text, region text, tier text,
    site text, outcome text, code text, http_status smallint, rule_id text, licence_id text, licence_version int,
    epoch bigint, instance_id text, opened_at bigint, audit_record text) ORDER BY request_id
), voided AS (
  INSERT INTO journal (request_id, tenant_id, key_id, project_id, model, model_version, action, purpose, data_class,
    country, region, tier, site, outcome, code, http_status, rule_id, licence_id, licence_version, epoch, instance_id,
    state, opened_at, settled_at, booked_at)
  SELECT request_id, tenant_id, key_id, project_id, model, model_version, action, purpose, data_class, country, region,
    tier, site, outcome, code, http_status, rule_id, licence_id, licence_version, epoch, instance_id, 'voided',
    from_micros(opened_at), from_micros(opened_at), from_micros(opened_at)
  FROM given
  ON CONFLICT (request_id) DO NOTHING RETURNING request_id
), told AS (
  INSERT INTO audit_pending (tenant_id, request_id, record)
  SELECT g.tenant_id, g.request_id, g.audit_record FROM given g JOIN voided v ON v.request_id = g.request_id
)
SELECT request_id::text FROM voided
"""

_COUNT_REFUSALS = """
WITH first AS (
  UPDATE instance SET refusals_flushed = $3 WHERE instance_id = $2 AND refusals_flushed < $3 RETURNING 1
)
INSERT INTO refusal_count (bucket, tenant_id, code, origin, n)
SELECT from_micros(bucket), tenant_id, code, origin, n
FROM json_to_recordset($1::json) AS g(bucket bigint, tenant_id text, code text, origin text, n bigint), first
ORDER BY bucket, tenant_id, code, origin
ON CONFLICT (bucket, tenant_id, code, origin) DO UPDATE SET n = refusal_count.n + excluded.n
"""

_DEAD = "INSERT INTO settle_dead (request_id, settlement, error) VALUES ($1::text::uuid, $2::jsonb, $3)"


@dataclass(frozen=True, slots=True)
class Mark:
    """Cumulative usage so far, as the engine said it; with `first_byte`, that the first byte is about to leave; with
    `sent`, that the attempt was sent to the engine and nothing has come back yet."""

    request_id: str
    attempt: int
    first_byte: bool
    usage: Usage
    at: int
    sent: bool = False


@dataclass(frozen=True, slots=True)
class RefusalCount:
    """Refusals that got no row of their own: `n` of one code in the bucket that starts at `bucket` (microseconds)."""

    bucket: int
    tenant_id: str
    code: str
    origin: str
    n: int


def _json(rows: Sequence[object]) -> str:
    return msgspec.json.encode(rows).decode()


class Journal:
    """Writes the journal of one process. Every method's future resolves when the row is stored."""

    def __init__(self, dsn: str) -> None:
        self._open_link = Link(dsn)
        self._settle_link = Link(dsn)
        self._mark_link = Link(dsn)
        self._refuse_link = Link(dsn, synchronous=False)
        self._void_link = Link(dsn)
        self.opens: GroupCommit[OpenRow] = GroupCommit(self._store_opens)
        self.marks: GroupCommit[Mark] = GroupCommit(self._store_marks)
        self.settlements: GroupCommit[Settlement] = GroupCommit(self._store_settlements)
        self.refusals: GroupCommit[Refusal] = GroupCommit(self._store_refusals)
        # A final row in the name of a request that has none, durable: should its `open` row still come, it finds the
        # place taken and its first byte is refused (`Delivery._mark`). False when the request has a row after all.
        self.voids: GroupCommit[Refusal] = GroupCommit(self._store_voids)

    async def close(self) -> None:
        """Store what is queued, then close the connections."""
        for queue in (self.opens, self.marks, self.settlements, self.refusals, self.voids):
            await queue.close()
        for link in (self._open_link, self._settle_link, self._mark_link, self._refuse_link, self._void_link):
            await link.close()

    async def count_refusals(self, counts: Sequence[RefusalCount], instance_id: str, flush: int) -> None:
        """Add to the exact counts of refusals without a row: the process's flush number `flush` (from 1 on, rising),
        which counts once however often it is sent. The process has said that it lives."""
        await self._refuse_link.fetch(_COUNT_REFUSALS, _json(counts), instance_id, flush)

    async def bury(self, settlement: Settlement, error: str) -> None:
        """Keep a settlement that the database refuses, for a person to look at."""
        _LOG.critical("settlement of %s refused by the database: %s", settlement.request_id, error)
        await self._settle_link.fetch(
            _DEAD, settlement.request_id, msgspec.json.encode(settlement).decode(), error[:500]
        )

    async def _store_opens(self, rows: Sequence[OpenRow]) -> None:
        await self._open_link.fetch(_OPEN, _json(rows))

    async def _store_marks(self, marks: Sequence[Mark]) -> Collection[int]:
        latest = {mark.request_id: mark for mark in marks}  # a first byte is awaited before anything follows it
        rows = await self._mark_link.fetch(_MARK, _json(list(latest.values())))
        marked = {row["request_id"] for row in rows}
        return {n for n, mark in enumerate(marks) if mark.first_byte and mark.request_id not in marked}

    async def _store_settlements(self, settlements: Sequence[Settlement]) -> Collection[int]:
        first: dict[str, Settlement] = {}
        for settlement in settlements:  # delivered twice in one batch: the first one counts, as it does across batches
            first.setdefault(settlement.request_id, settlement)
        rows = await self._settle_link.fetch(SETTLE, _json(list(first.values())))
        settled = {row["request_id"] for row in rows}
        return {n for n, settlement in enumerate(settlements) if settlement.request_id not in settled}

    async def _store_refusals(self, refusals: Sequence[Refusal]) -> None:
        await self._refuse_link.fetch(_REFUSE, _json(refusals))

    async def _store_voids(self, refusals: Sequence[Refusal]) -> Collection[int]:
        rows = await self._void_link.fetch(_REFUSE, _json(refusals))
        voided = {row["request_id"] for row in rows}
        return {n for n, refusal in enumerate(refusals) if refusal.request_id not in voided}
