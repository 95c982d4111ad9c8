"""Reconciliation: whether journal, ledger, the engines' records and the platform's account agree. It must find 0."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from billing.types import Usage
from billing.witnessed import REQUEST_ID

# A record is read within seconds of its end; an engine whose record cannot be read for this long is a finding.
RECORD_LATE = "10 minutes"
UNFINISHED_AFTER = "1 hour"
SHOWN_MAX = 20

_FINDINGS = {
    # More was charged than the engine worked for: the one thing that must never be.
    "booked_above_witness": """
SELECT j.request_id::text AS what FROM journal j
JOIN witness_record w ON w.attempt_id = j.request_id::text || '-' || j.attempt
WHERE j.booked_at >= $1 AND j.booked_at < $2 AND j.state <> 'voided'
  AND (j.prompt_tokens > w.prompt_tokens OR j.completion_tokens > w.completion_tokens)""",
    # Charged, and the engine that keeps records has none of it. An engine that was killed has none of what it was doing
    # then: that was charged by the last count received, and is told as uncertain.
    "witness_missing": f"""
WITH since AS (SELECT u.upstream_id, w.started_at FROM upstream u CROSS JOIN LATERAL (
  SELECT started_at FROM witness_record w WHERE w.upstream_id = u.upstream_id ORDER BY started_at LIMIT 1) w)
SELECT j.request_id::text AS what FROM journal j JOIN upstream u ON u.upstream_id = j.upstream_id
  JOIN since s ON s.upstream_id = u.upstream_id AND j.opened_at >= s.started_at
WHERE j.booked_at >= $1 AND j.booked_at < $2 AND j.state <> 'voided' AND j.usage_source IN ('engine', 'witness')
  AND j.outcome NOT IN ('upstream_failed', 'upstream_timeout') AND u.witness_url IS NOT NULL
  AND j.settled_at < now() - interval '{RECORD_LATE}'
  AND j.opened_at >= kept_since('witness_record')
  AND NOT EXISTS (SELECT FROM witness_record w WHERE w.attempt_id = j.request_id::text || '-' || j.attempt)""",  # noqa: S608 # constants of our own
    "record_not_judged": f"""
SELECT attempt_id AS what FROM witness_record
WHERE ended_at >= $1 AND ended_at < $2 AND reconciled_at IS NULL AND read_at < now() - interval '{UNFINISHED_AFTER}'""",  # noqa: S608
    "unbalanced": """
SELECT request_id::text AS what FROM ledger_entry WHERE booked_at >= $1 AND booked_at < $2
GROUP BY request_id HAVING sum(debit) <> sum(credit)""",
    "ledger_differs": """
SELECT j.request_id::text AS what FROM journal j
LEFT JOIN LATERAL (SELECT coalesce(sum(e.debit), 0) AS debit FROM ledger_entry e
  WHERE e.request_id = j.request_id AND e.source = 'request') l ON true
WHERE j.booked_at >= $1 AND j.booked_at < $2 AND j.micro_yen <> l.debit""",
    "unfinished": f"""
SELECT request_id::text AS what FROM journal
WHERE state IN ('open', 'dispatched', 'streaming') AND opened_at >= $1 AND opened_at < $2
  AND opened_at < now() - interval '{UNFINISHED_AFTER}'""",  # noqa: S608
    "refused_settlement": """
SELECT d.request_id::text AS what FROM settle_dead d JOIN journal j ON j.request_id = d.request_id
WHERE d.created_at >= $1 AND d.created_at < $2 AND j.settled_at IS NULL""",
}

# Charged by the last count received, since the engine, or engine and gateway together, died before the final one. The
# engine may have worked for more, never for less.
_UNCERTAIN = """
SELECT count(*) AS requests, coalesce(sum(prompt_tokens + completion_tokens), 0)::bigint AS tokens FROM journal j
WHERE booked_at >= $1 AND booked_at < $2 AND state <> 'voided'
  AND (usage_source = 'checkpoint' OR outcome IN ('upstream_failed', 'upstream_timeout') AND usage_source = 'engine')
  AND NOT EXISTS (SELECT FROM witness_record w WHERE w.attempt_id = j.request_id::text || '-' || j.attempt)
"""

_KINDS = ("prompt", "cached", "completion", "reasoning", "image", "audio")


def _sums(prefix: str = "") -> str:
    """SQL: a JSON object of the sums of every kind of tokens."""
    return "json_build_object(" + ", ".join(f"'{k}', coalesce(sum({prefix}{k}_tokens), 0)" for k in _KINDS) + ")::text"


_SUMS = f"""
SELECT
  (SELECT {_sums()} FROM witness_record
    WHERE ended_at >= $1 AND ended_at < $2 AND reconciled_at IS NOT NULL) AS witness,
  (SELECT {_sums("j.")}
    FROM witness_record w JOIN journal j ON j.request_id = {REQUEST_ID} AND j.attempt::text = substr(w.attempt_id, 38)
    WHERE w.ended_at >= $1 AND w.ended_at < $2 AND w.reconciled_at IS NOT NULL AND j.state <> 'voided') AS tenants,
  (SELECT {_sums()} FROM platform_usage WHERE ended_at >= $1 AND ended_at < $2) AS platform
"""  # noqa: S608 # constants of our own


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be: `code`, how many, and the first of them."""

    code: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What was compared in [`start`, `end`): the tokens of each account, and the findings. `uncertain` are requests and
    tokens that were charged by the last count received and that no engine's record confirms."""

    start: datetime
    end: datetime
    witness: Usage
    tenants: Usage
    platform: Usage
    uncertain: tuple[int, int]
    findings: tuple[Finding, ...]


async def reconcile(connection: Any, start: datetime, end: datetime) -> Reconciliation:
    """Compare the books of [`start`, `end`) (aware times). `connection` is asyncpg's, inside a repeatable-read
    transaction where all of it must be of one moment."""
    findings = []
    for code, query in _FINDINGS.items():
        rows = await connection.fetch(query, start, end)
        if rows:
            findings.append(Finding(code, len(rows), tuple(row["what"] for row in rows[:SHOWN_MAX])))
    # Of a time whose records are kept no longer only the platform's part is left.
    kept = await connection.fetch("SELECT kept_since('witness_record') AS since")
    sums = await connection.fetch(_SUMS, max(start, kept[0]["since"]), end)
    witness, tenants, platform = (
        msgspec.json.decode(sums[0][name], type=Usage) for name in ("witness", "tenants", "platform")
    )
    differences = {kind: _difference(kind, witness, tenants, platform) for kind in _KINDS}
    if any(differences.values()):
        parts = [f"{kind} {n:+d}" for kind, n in differences.items() if n]
        findings.append(Finding("sums_differ", 1, (f"{', '.join(parts)} tokens",)))
    row = (await connection.fetch(_UNCERTAIN, start, end))[0]
    return Reconciliation(start, end, witness, tenants, platform, (row["requests"], row["tokens"]), tuple(findings))


def _difference(kind: str, witness: Usage, tenants: Usage, platform: Usage) -> int:
    counted: int = getattr(witness, kind) - getattr(tenants, kind) - getattr(platform, kind)
    return counted
