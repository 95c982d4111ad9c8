"""Soft limits: when a month's yen reach `quota.yen_month_soft` of the grant they were used under, the tenant is told by
webhook, once. Nothing is ever refused for it.

`handle` consumes `usage` rows of the outbox in the transaction that deletes them: what it publishes and the deletion
stand or fall together.
"""

from collections.abc import Sequence
from typing import Any

from gateway.clock import now_us
from gateway.limits.fills import BY_ROWS, FILL_S_MAX
from gateway.webhooks.events import new_event
from gateway.webhooks.store import publish

MICRO = 1_000_000

# The version of the licence that permitted a request says which threshold counts for it. What was told is not summed
# again; nothing is summed for grants without a threshold.
_WATCHED = """
WITH touched AS (
  SELECT DISTINCT tenant_id, period, rule_id, licence_id, licence_version FROM journal
  WHERE request_id = ANY ($1::uuid[]) AND period <> ''
), watched AS (
  SELECT t.*, (g.value->'quota'->>'yen_month_soft')::bigint AS yen
  FROM touched t
  JOIN licence l ON l.licence_id = t.licence_id AND l.version = t.licence_version AND l.tenant_id = t.tenant_id
  CROSS JOIN LATERAL jsonb_array_elements(l.document->'grants') AS g(value)
  WHERE t.rule_id = t.licence_id || '/' || (g.value->>'id')
)
SELECT w.*, n.dedupe FROM watched w
CROSS JOIN LATERAL (
  SELECT 'limit.soft_reached licence:' || w.rule_id || ' ' || w.period || ' ' || w.yen AS dedupe
) n
WHERE w.yen IS NOT NULL
  AND NOT EXISTS (SELECT FROM webhook_event e WHERE e.tenant_id = w.tenant_id AND e.dedupe = n.dedupe)
ORDER BY w.tenant_id, n.dedupe
"""

# As `gateway.limits.month` sums.
_USED = """
SELECT coalesce(sum(micro_yen), 0)::bigint AS micro_yen FROM journal
WHERE tenant_id = $1 AND period = $2 AND rule_id = $3 AND booked_at >= to_date($2, 'YYYYMM') - interval '2 days'
"""

_BY_ROWS = "; ".join(f"SET LOCAL {name} = {value}" for name, value in BY_ROWS.items())


async def handle(connection: Any, rows: Sequence[Any]) -> None:
    """Consume `usage` rows of the outbox (each with its `request_id`): publish the thresholds that are reached now."""
    request_ids = [row["request_id"] for row in rows if row["request_id"] is not None]
    touched = await connection.fetch(_WATCHED, request_ids)
    if touched:
        await connection.execute(_BY_ROWS)
    for watched in touched:
        month = (watched["tenant_id"], watched["period"], watched["rule_id"])
        used = await connection.fetch(_USED, *month, timeout=FILL_S_MAX)
        micro_yen = used[0]["micro_yen"]
        if micro_yen < watched["yen"] * MICRO:
            continue
        data = {
            "level": "licence",
            "rule": watched["rule_id"],
            "licence": f"{watched['licence_id']}@{watched['licence_version']}",
            "period": watched["period"],
            "yen_month_soft": watched["yen"],
            "used_micro_yen": micro_yen,
        }
        event = new_event(watched["tenant_id"], "limit.soft_reached", data, now_us(), watched["dedupe"])
        await publish(connection, event)
