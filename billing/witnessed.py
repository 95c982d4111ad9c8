"""The engines' records in the book, and what of them no tenant pays for.

    Σ witness_record = Σ journal (what tenants are charged for) + Σ platform_usage, in every kind of tokens

A row of the platform's account may hold a part without its whole (cached tokens but no prompt tokens): the tenant was
charged for that prompt, from a usage that did not know yet how much of it was cached.

Each record is judged once, when its request's row is final. `docs/decisions/0012-platform-account.md` gives the reasons
of the platform's account.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

# A row that is not here this long after its engine has ended will not come: its process died before it was stored.
UNJOURNALED_AFTER = "10 minutes"
JUDGED_ROWS_MAX = 5_000
FORGOTTEN_ROWS_MAX = 20_000
RECORD_TABLES = ("witness_record", "platform_usage")

# SQL: the request that a record `w` names, NULL for a probe; what follows it is the number of the attempt. Through it
# the journal is found by its primary key, and by nothing that an index does not know.
REQUEST_ID = (
    "CASE WHEN w.attempt_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9]{1,4}$'"
    " THEN left(w.attempt_id, 36)::uuid END"
)

_CURSORS = "SELECT file, next FROM witness_cursor WHERE upstream_id = $1"

# Records and the place where reading goes on, in one statement: a page that is read again changes nothing.
_STORE = """
WITH given AS (
  SELECT * FROM json_to_recordset($4::json) AS g(attempt_id text, model text, state text, usage json,
    finish_reason text, started_at_us bigint, ended_at_us bigint)
), stored AS (
  INSERT INTO witness_record AS w (attempt_id, upstream_id, model, state, prompt_tokens, cached_tokens, image_tokens,
    audio_tokens, completion_tokens, reasoning_tokens, finish_reason, started_at, ended_at)
  SELECT attempt_id, $1, model, state, (usage->>'prompt')::bigint, (usage->>'cached')::bigint,
    (usage->>'image')::bigint, (usage->>'audio')::bigint, (usage->>'completion')::bigint,
    (usage->>'reasoning')::bigint, finish_reason, from_micros(started_at_us),
    from_micros(coalesce(ended_at_us, started_at_us))
  FROM given ORDER BY attempt_id
  -- An engine that goes on with an attempt writes its sum once more; the last word counts, until it was judged.
  ON CONFLICT (attempt_id) DO UPDATE SET state = excluded.state, prompt_tokens = excluded.prompt_tokens,
    cached_tokens = excluded.cached_tokens, image_tokens = excluded.image_tokens, audio_tokens = excluded.audio_tokens,
    completion_tokens = excluded.completion_tokens, reasoning_tokens = excluded.reasoning_tokens,
    finish_reason = excluded.finish_reason, ended_at = excluded.ended_at
  WHERE w.reconciled_at IS NULL
)
INSERT INTO witness_cursor (upstream_id, file, next) VALUES ($1, $2, $3)
ON CONFLICT (upstream_id, file) DO UPDATE SET next = excluded.next
"""

_JUDGE = f"""
WITH fresh AS (
  SELECT w.*, {REQUEST_ID} AS request_id
  FROM witness_record w LEFT JOIN journal j ON j.request_id = {REQUEST_ID}
  -- Only what can be judged: a crowd of records whose rows are not final yet must not keep others from their turn.
  WHERE w.reconciled_at IS NULL AND (j.settled_at IS NOT NULL OR {REQUEST_ID} IS NULL
    OR j.request_id IS NULL AND w.read_at < now() - interval '{UNJOURNALED_AFTER}')
  ORDER BY w.read_at LIMIT $1 FOR UPDATE OF w SKIP LOCKED
), judged AS (
  SELECT f.*, CASE
      WHEN f.request_id IS NULL THEN 'probe'
      WHEN j.request_id IS NULL AND f.read_at < now() - interval '{UNJOURNALED_AFTER}' THEN 'unjournaled'
      WHEN j.settled_at IS NULL THEN NULL
      WHEN j.attempt <> substr(f.attempt_id, 38)::integer THEN 'superseded'
      WHEN j.state = 'voided' THEN 'never_delivered'
      ELSE 'uncollected' END AS reason,
    coalesce(j.prompt_tokens, 0) AS prompt, coalesce(j.cached_tokens, 0) AS cached,
    coalesce(j.image_tokens, 0) AS image, coalesce(j.audio_tokens, 0) AS audio,
    coalesce(j.completion_tokens, 0) AS completion, coalesce(j.reasoning_tokens, 0) AS reasoning
  FROM fresh f LEFT JOIN journal j ON j.request_id = f.request_id
), borne AS (
  -- What was booked is taken off only where it was booked for this attempt; a voided row has booked nothing.
  SELECT *, (reason = 'uncollected')::integer AS mine FROM judged WHERE reason IS NOT NULL
), platform AS (
  INSERT INTO platform_usage (attempt_id, upstream_id, model, reason, prompt_tokens, cached_tokens, image_tokens,
    audio_tokens, completion_tokens, reasoning_tokens, ended_at)
  SELECT attempt_id, upstream_id, model, reason, prompt_tokens - mine * prompt, cached_tokens - mine * cached,
    image_tokens - mine * image, audio_tokens - mine * audio, completion_tokens - mine * completion,
    reasoning_tokens - mine * reasoning, ended_at
  FROM borne
  WHERE prompt_tokens >= mine * prompt AND completion_tokens >= mine * completion
    AND (prompt_tokens, cached_tokens, image_tokens, audio_tokens, completion_tokens, reasoning_tokens)
      <> (mine * prompt, mine * cached, mine * image, mine * audio, mine * completion, mine * reasoning)
  ON CONFLICT (attempt_id) DO NOTHING
)
UPDATE witness_record w SET reconciled_at = now() FROM borne b WHERE w.attempt_id = b.attempt_id RETURNING 1
"""  # noqa: S608 # a constant of our own

_FORGET = """
DELETE FROM {table} WHERE attempt_id IN (
  SELECT attempt_id FROM {table} WHERE ended_at < kept_since('{table}') ORDER BY ended_at LIMIT $1)
RETURNING 1
"""


async def cursors(connection: Any, upstream_id: str) -> dict[str, int]:
    """Where reading goes on, by file of the upstream."""
    return {row["file"]: row["next"] for row in await connection.fetch(_CURSORS, upstream_id)}


async def store(connection: Any, upstream_id: str, file: str, following: int, records: Sequence[Any]) -> None:
    """Store a page. `records` have the fields of `gateway.upstreams.witness.EngineRecord`; `following` is where the
    next page begins."""
    last = {record.attempt_id: record for record in records}
    await connection.fetch(_STORE, upstream_id, file, following, msgspec.json.encode(list(last.values())).decode())


async def judge(connection: Any) -> int:
    """Book what no tenant pays for, of the records whose requests are final; returns how many records were judged."""
    return len(await connection.fetch(_JUDGE, JUDGED_ROWS_MAX))


async def forget(connection: Any, table: str) -> int:
    """Delete what one of `RECORD_TABLES` keeps no longer (table `retention`), a bounded number of rows; returns how
    many."""
    return len(await connection.fetch(_FORGET.format(table=table), FORGOTTEN_ROWS_MAX))
