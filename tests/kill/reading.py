"""Reads the facts out of PostgreSQL, Valkey and the engine's record file, and waits for recovery to be over."""

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis

from billing.reconcile import Reconciliation, reconcile
from billing.types import Usage
from gateway.limits.holds import Holds
from gateway.limits.levels import UNBOUNDED, LimitLevel
from tests.kill.book import Counters, Facts, Row
from tests.kill.clients import Seen
from tests.kill.stack import CARDS, Stack

POLL_S = 0.25
# The worker reads and judges every second; nothing new for this long is the end of it.
RECORDS_S = 4.0
_UNFINISHED = "SELECT count(*) FROM journal WHERE state IN ('open', 'dispatched', 'streaming')"
_CHECKPOINTED = """
SELECT count(*) FROM journal j JOIN journal_progress p ON p.request_id = j.request_id WHERE j.state = 'streaming'
"""
_ROWS = """
SELECT j.request_id::text AS request_id, tenant_id, model, instance_id, period, state, coalesce(outcome, '') AS outcome,
  usage_source AS source, attempt, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens,
  micro_yen, coalesce(l.debit, 0)::bigint AS debit, coalesce(l.credit, 0)::bigint AS credit,
  coalesce(a.audits, 0) AS audits, extract(epoch FROM opened_at)::float8 AS opened_at,
  extract(epoch FROM first_byte_at)::float8 AS first_byte_at, extract(epoch FROM settled_at)::float8 AS settled_at
FROM journal j
LEFT JOIN (SELECT request_id, sum(debit) AS debit, sum(credit) AS credit FROM ledger_entry GROUP BY 1) l
  ON l.request_id = j.request_id
LEFT JOIN (SELECT request_id, count(*) AS audits FROM audit_pending GROUP BY 1) a ON a.request_id = j.request_id
"""
_STRAY = (
    "SELECT count(*) FROM ledger_entry l WHERE NOT EXISTS (SELECT FROM journal j WHERE j.request_id = l.request_id)"
)


async def quiet(stack: Stack, within_s: float) -> float | None:
    """Seconds until no row is unfinished and no hold is left; None when that takes longer than `within_s`."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    connection = await asyncpg.connect(stack.dsn)
    valkey: Any = Redis.from_url(stack.valkey_url, decode_responses=True)
    try:
        while loop.time() - started < within_s:
            if not await connection.fetchval(_UNFINISHED) and not await _holds(connection, valkey):
                return loop.time() - started
            await asyncio.sleep(POLL_S)
        return None
    finally:
        await connection.close()
        await valkey.aclose()


async def checkpointed(stack: Stack, within_s: float) -> bool:
    """Waits until a stream under way has its usage written down; False when that takes longer than `within_s`."""
    connection = await asyncpg.connect(stack.dsn)
    try:
        for _ in range(round(within_s / POLL_S)):
            if await connection.fetchval(_CHECKPOINTED):
                return True
            await asyncio.sleep(POLL_S)
        return False
    finally:
        await connection.close()


async def facts(stack: Stack, seen: Sequence[Seen]) -> Facts:
    """Everything that the check needs."""
    connection = await asyncpg.connect(stack.dsn)
    valkey: Any = Redis.from_url(stack.valkey_url, decode_responses=True)
    deaths, instances = stack.deaths(), stack.instances()
    try:
        rows = [_row(dict(row)) for row in await connection.fetch(_ROWS)]
        await _filled(stack, {(row.tenant_id, row.period) for row in rows if row.period})
        buried = await connection.fetchval("SELECT count(*) FROM settle_dead") + await connection.fetchval(_STRAY)
        return Facts(
            seen=seen,
            rows={row.request_id: row for row in rows},
            records=_records(stack.record),
            cards=CARDS,
            counters=await _counters(connection, valkey),
            holds=await _holds(connection, valkey),
            buried=buried,
            gateway_deaths={instances[kill.pid]: kill.at for kill in deaths if kill.pid in instances},
            engine_deaths=[kill.at for kill in deaths if kill.victim == "engine"],
            postgresql_deaths=[kill.at for kill in deaths if kill.victim == "postgresql"],
        )
    finally:
        await connection.close()
        await valkey.aclose()


def _row(row: dict[str, Any]) -> Row:
    counts = [row.pop(f"{name}_tokens") for name in ("prompt", "cached", "completion", "reasoning")]
    return Row(**row, usage=Usage(*counts))


def _records(path: Path) -> dict[str, Usage]:
    """Final records by attempt id; a line torn by the engine's death is no record."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            one = json.loads(line)
        except json.JSONDecodeError:
            continue
        counts = [one[f"{name}_tokens"] for name in ("prompt", "cached", "completion", "reasoning")]
        found[one["attempt_id"]] = Usage(*counts)
    return found


async def _filled(stack: Stack, months: set[tuple[str, str]]) -> None:
    """A generation of limits reads a month when it is first asked for: ask for all of them."""
    holds = Holds(stack.valkey_url, stack.dsn)
    try:
        for tenant_id, period in months:
            await holds.look(tenant_id, [LimitLevel("tenant", tenant_id, UNBOUNDED)], period)
    finally:
        await holds.close()


async def _holds(connection: Any, valkey: Any) -> list[str]:
    mode = await connection.fetchrow("SELECT mode, generation, name FROM limits_mode")
    if mode["mode"] == "book":
        rows = await connection.fetch(
            "SELECT request_id FROM limit_hold JOIN limit_book USING (tenant_id) WHERE generation = $1",
            mode["generation"],
        )
        return [row["request_id"] for row in rows]
    pattern = f"sekisho:{mode['name']}:holds:*"
    return [hold async for key in valkey.scan_iter(match=pattern) for hold in await valkey.hkeys(key)]


async def _counters(connection: Any, valkey: Any) -> dict[tuple[str, str, str], Counters]:
    mode = await connection.fetchrow("SELECT mode, generation, name FROM limits_mode")
    if mode["mode"] == "book":
        rows = await connection.fetch(
            "SELECT limit_use.* FROM limit_use JOIN limit_book USING (tenant_id) WHERE generation = $1",
            mode["generation"],
        )
        return {
            (row["tenant_id"], row["level"], row["period"]): Counters(
                row["used_tokens"], row["used_micro_yen"], row["held_tokens"], row["held_micro_yen"]
            )
            for row in rows
        }
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    prefix = f"sekisho:{mode['name']}:use:"
    async for key in valkey.scan_iter(match=f"{prefix}*"):
        tenant_id, _, period = key.removeprefix(prefix).rpartition(":")
        for field, value in (await valkey.hgetall(key)).items():
            level, _, name = field.rpartition(" ")
            found.setdefault((tenant_id, level, period), {})[name] = int(value)
    return {place: Counters(**sums) for place, sums in found.items()}


async def reconciled(stack: Stack) -> Reconciliation:
    """The product's own comparison of all books, once the worker has taken over what the engine recorded."""
    connection = await asyncpg.connect(stack.dsn)
    try:
        known, settled_at = -1, time.monotonic()
        while time.monotonic() - settled_at < RECORDS_S:
            count = await connection.fetchval("SELECT count(*) FROM witness_record WHERE reconciled_at IS NOT NULL")
            if count != known:
                known, settled_at = count, time.monotonic()
            await asyncio.sleep(0.2)
        now = datetime.now(UTC)
        return await reconcile(connection, now - timedelta(days=1), now + timedelta(days=1))
    finally:
        await connection.close()
