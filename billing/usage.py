"""Usage of one tenant, from one query: the API, the command line and (later) invoices all read these figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

GroupBy = Literal["model", "key", "hour", "outcome"]
GROUPS: tuple[str, ...] = get_args(GroupBy)

# Rows without a settlement time are still under way and therefore not usage yet.
_USAGE = """
SELECT {columns} count(*) AS requests, coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
  coalesce(sum(cached_tokens), 0)::bigint AS cached_tokens,
  coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens, coalesce(sum(micro_yen), 0)::bigint AS micro_yen
FROM journal WHERE tenant_id = $1 AND settled_at >= $2 AND settled_at < $3 {group}
"""

_COLUMNS = {
    # A name that was asked for in vain is in the journal, for whoever replays it; it is no model of the tenant's.
    "model": "CASE WHEN code = 'model_not_found' THEN '' ELSE model END",
    "key": "key_id",
    "outcome": "outcome",
    # Hours are hours of the tenant's zone; a zone with a half-hour offset cuts them where its own clocks do.
    "hour": "to_char(date_trunc('hour', settled_at AT TIME ZONE $4::text), 'YYYY-MM-DD\"T\"HH24:00')",
}


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Usage of `tenant_id` settled in [`start`, `end`) (aware times), grouped by `group_by` in the zone `zone`."""

    tenant_id: str
    start: datetime
    end: datetime
    zone: str
    group_by: Sequence[str]

    def __post_init__(self) -> None:
        unknown = set(self.group_by) - set(GROUPS)
        if unknown:
            raise ValueError(f"unknown group: {min(unknown)}")


def statement(query: UsageQuery) -> tuple[str, list[object]]:
    """The SQL text and its arguments. Only names from the closed set of groups reach the text."""
    chosen = [group for group in GROUPS if group in query.group_by]
    columns = "".join(f"{_COLUMNS[group]} AS {group}, " for group in chosen)
    positions = ", ".join(str(number + 1) for number in range(len(chosen)))
    group = f"GROUP BY {positions} ORDER BY {positions}" if chosen else ""
    arguments: list[object] = [query.tenant_id, query.start, query.end]
    if "hour" in chosen:
        arguments.append(query.zone)
    return _USAGE.format(columns=columns, group=group), arguments


async def usage(connection: Any, query: UsageQuery) -> dict[str, object]:
    """The answer of `GET /v1/usage` (see `docs/api.md`). `connection` has asyncpg's `fetch(query, *arguments)`."""
    text, arguments = statement(query)
    rows = [dict(row) for row in await connection.fetch(text, *arguments)]
    totals = {
        name: sum(row[name] for row in rows)
        for name in ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "micro_yen")
    }
    return {
        "from": query.start.isoformat(),
        "to": query.end.isoformat(),
        "zone": query.zone,
        "totals": totals,
        "rows": rows if query.group_by else [],
    }
