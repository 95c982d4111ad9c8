"""What the journal knows of a tenant's month: the sums of every level, and the holds of what still runs."""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.limits.fills import Fills

# The month's sums can be read again at any time; this is how long Valkey keeps them after they were first asked for.
KEEP_S = 70 * 24 * 3600

# One statement, therefore one snapshot: a row that settles meanwhile is in exactly one of the sums and the holds.
# Settled rows are found by tenant and time of booking, which is never before the month in which they were opened (two
# days for the zones), the others among all that are unfinished. A range of ids would lead the planner to the primary
# key, and thereby to the month of all tenants. $3 are the requests that Valkey holds: of those that are final, the use
# is in the sums, so their holds must go.
_MONTH = """
WITH used AS (
  SELECT coalesce('licence:' || rule_id || ' ', 'project:' || project_id || ' ', 'key:' || key_id || ' ', '') AS prefix,
    coalesce(sum(prompt_tokens + completion_tokens), 0)::bigint AS tokens,
    coalesce(sum(micro_yen), 0)::bigint AS micro_yen
  FROM journal WHERE tenant_id = $1 AND period = $2 AND booked_at >= to_date($2, 'YYYYMM') - interval '2 days'
  GROUP BY GROUPING SETS ((), (rule_id), (project_id), (key_id))
), running AS (
  SELECT request_id, period, rule_id, project_id, key_id, instance_id, opened_at, held_tokens, held_micro_yen
  FROM journal WHERE tenant_id = $1 AND period = $2 AND state IN ('open', 'dispatched', 'streaming')
), minute AS (
  SELECT extract(epoch FROM date_trunc('minute', now()))::bigint / 60 AS number
), recent AS (
  SELECT rule_id, project_id, key_id, opened_at, prompt_tokens + completion_tokens AS tokens
  FROM journal WHERE tenant_id = $1 AND period = $2 AND booked_at >= date_trunc('minute', now())
  UNION ALL
  SELECT rule_id, project_id, key_id, opened_at, held_tokens FROM running
), rated AS (
  SELECT coalesce('licence:' || rule_id || ' ', 'project:' || project_id || ' ', 'key:' || key_id || ' ', '') AS prefix,
    count(*) AS requests, coalesce(sum(tokens), 0)::bigint AS tokens
  FROM recent WHERE opened_at >= date_trunc('minute', now())
  GROUP BY GROUPING SETS ((), (rule_id), (project_id), (key_id))
)
SELECT
  (SELECT number FROM minute) AS minute,
  (SELECT coalesce(json_agg(json_build_array(prefix, requests, tokens)), '[]')::text FROM rated
    WHERE prefix <> 'project: ' AND requests > 0) AS rated,
  (SELECT json_agg(json_build_array(prefix, tokens, micro_yen))::text FROM used WHERE prefix <> 'project: ') AS used,
  (SELECT coalesce(json_agg(request_id), '[]')::text FROM journal
    WHERE request_id = ANY($3::text[]::uuid[]) AND period = $2 AND settled_at IS NOT NULL) AS final,
  (SELECT coalesce(json_agg(json_build_array(request_id, held_tokens || ':' || held_micro_yen || ':' || period || ':'
      || instance_id || ':' || extract(epoch FROM opened_at)::bigint || ':licence:' || rule_id
      || CASE project_id WHEN '' THEN '' ELSE ' project:' || project_id END || ' key:' || key_id)), '[]')::text
    FROM running) AS holds
"""


async def seed_arguments(fills: Fills, tenant_id: str, period: str, held_ids: Sequence[str]) -> list[str | int]:
    """The arguments of `seed.lua` for a month. `held_ids` are the requests whose holds Valkey has.

    Raises `StoreUnavailable` or `PostgresError`.
    """
    row = (await fills.fetch(_MONTH, tenant_id, period, list(held_ids)))[0]
    used = msgspec.json.decode(row["used"], type=list[tuple[str, int, int]])
    rated = msgspec.json.decode(row["rated"], type=list[tuple[str, int, int]])
    final = msgspec.json.decode(row["final"], type=list[str])
    holds = msgspec.json.decode(row["holds"], type=list[tuple[str, str]])
    sums = [len(used), *_flat(used), len(rated), *_flat(rated), len(final), *final]
    return [period, KEEP_S, row["minute"], *sums, *_flat(holds)]


def _flat(rows: Sequence[tuple[Any, ...]]) -> list[str | int]:
    return [value for row in rows for value in row]
