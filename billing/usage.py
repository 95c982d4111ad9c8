"""Usage, from one query: the API, the admin plane, CSV files and the command line all read these figures, and invoices
are checked against them. A row of the journal counts at its `booked_at`, and only once it is settled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

GroupBy = Literal["tenant", "project", "model", "key", "kind", "outcome", "month", "day", "hour"]
GROUPS: tuple[str, ...] = get_args(GroupBy)
# A tenant's own answer needs no name for the tenant.
OWN_GROUPS: tuple[str, ...] = tuple(group for group in GROUPS if group != "tenant")
FILTERS: tuple[str, ...] = ("project", "model", "key", "outcome")
ROWS_MAX = 20_000

TOKENS = ("prompt_tokens", "cached_tokens", "image_tokens", "audio_tokens", "completion_tokens", "reasoning_tokens")
MEASURES = ("requests", *TOKENS, "micro_yen")
# By kind a row is one price line: its own quantity. Σ quantity = prompt + completion tokens.
KIND_MEASURES = ("requests", "quantity", "micro_yen")

_COLUMNS: Mapping[str, str] = {
    "tenant": "j.tenant_id",
    "project": "j.project_id",
    # A name that was asked for in vain is in the journal, for whoever replays it; it is no model of the tenant's.
    "model": "CASE WHEN j.code = 'model_not_found' THEN '' ELSE j.model END",
    "key": "j.key_id",
    # What has no price line (refusals) has the kind ''.
    "kind": "coalesce(line.kind, '')",
    "outcome": "j.outcome",
    # Times are those of the zone; a zone with a half-hour offset cuts hours where its own clocks do.
    "month": "to_char(j.booked_at AT TIME ZONE $4::text, 'YYYY-MM')",
    "day": "to_char(j.booked_at AT TIME ZONE $4::text, 'YYYY-MM-DD')",
    "hour": "to_char(date_trunc('hour', j.booked_at AT TIME ZONE $4::text), 'YYYY-MM-DD\"T\"HH24:00')",
}

# `first` marks one line of each request, so that what belongs to the request is added up once.
_BOOKED = """
SELECT {columns} true AS first, j.prompt_tokens + j.completion_tokens AS quantity, j.micro_yen, {tokens}
FROM journal j {where}
"""
_BOOKED_LINES = """
SELECT {columns} coalesce(line.first, true) AS first,
  coalesce(line.quantity, j.prompt_tokens + j.completion_tokens) AS quantity,
  coalesce(line.micro_yen, j.micro_yen) AS micro_yen, {tokens}
FROM journal j LEFT JOIN LATERAL (
  SELECT l.kind, sum(l.quantity)::bigint AS quantity, sum(l.debit)::bigint AS micro_yen,
    row_number() OVER (ORDER BY l.kind) = 1 AS first
  FROM ledger_entry l WHERE l.request_id = j.request_id AND l.account = 'receivable:' || j.tenant_id GROUP BY l.kind
) line ON true {where}
"""
# The array of tenants leads the planner to the index of booked rows, also where every tenant is asked for. The zone is
# named so that it is an argument of every statement.
_WHERE = """
WHERE j.tenant_id = ANY (ARRAY(
    SELECT unnest($1::text[]) UNION ALL SELECT t.tenant_id FROM tenant t WHERE $1::text[] IS NULL))
  AND j.booked_at >= $2 AND j.booked_at < $3 AND $4::text IS NOT NULL {filters}
"""
_SUMS = """
SELECT {names} {is_total} AS is_total, {requests} AS requests, coalesce(sum(quantity), 0)::bigint AS quantity,
  {sums}, coalesce(sum(micro_yen), 0)::bigint AS micro_yen
FROM ({booked}) AS booked GROUP BY {sets} ORDER BY {order} LIMIT {limit}
"""


class TooManyRows(ValueError):
    """The answer would have more than `ROWS_MAX` rows."""


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Usage of `tenants` (None: every one) booked in [`start`, `end`) (aware times), grouped by `group_by` in the zone
    `zone`; only rows that have the values `where` (of `FILTERS`)."""

    tenants: tuple[str, ...] | None
    start: datetime
    end: datetime
    zone: str
    group_by: Sequence[str]
    where: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for given, known in ((set(self.group_by), GROUPS), (set(self.where), FILTERS)):
            unknown = given - set(known)
            if unknown:
                raise ValueError(f"unknown name: {min(unknown)}")

    @property
    def groups(self) -> list[str]:
        """The groups in the order of the columns."""
        return [group for group in GROUPS if group in self.group_by]

    @property
    def measures(self) -> tuple[str, ...]:
        """What is told of each row."""
        return KIND_MEASURES if "kind" in self.group_by else MEASURES


def statement(query: UsageQuery) -> tuple[str, list[object]]:
    """The SQL text and its arguments. Only names from the closed sets of groups and filters reach the text."""
    groups = query.groups
    arguments: list[object] = [
        None if query.tenants is None else list(query.tenants), query.start, query.end, query.zone,
    ]  # fmt: skip
    filters = ""
    for name, value in query.where.items():
        arguments.append(value)
        filters += f" AND {_COLUMNS[name]} = ${len(arguments)}"
    booked = (_BOOKED_LINES if "kind" in groups else _BOOKED).format(
        columns="".join(f"{_COLUMNS[group]} AS {group}, " for group in groups),
        tokens=", ".join(f"j.{name}" for name in TOKENS), where=_WHERE.format(filters=filters),
    )  # fmt: skip
    names = ", ".join(groups)
    is_total = f"(grouping({groups[0]}) = 1)" if groups else "true"
    text = _SUMS.format(
        names=f"{names}," if groups else "", is_total=is_total, booked=booked, limit=ROWS_MAX + 2,
        requests=f"CASE WHEN {is_total} THEN count(*) FILTER (WHERE first) ELSE count(*) END",
        sums=", ".join(f"coalesce(sum({name}) FILTER (WHERE first), 0)::bigint AS {name}" for name in TOKENS),
        sets=f"GROUPING SETS (({names}), ())" if groups else "()",
        order=f"is_total DESC, {names}" if groups else "1",
    )  # fmt: skip
    return text, arguments


async def usage(connection: Any, query: UsageQuery) -> dict[str, Any]:
    """The answer of `GET /v1/usage` (see `docs/api.md`): totals and rows of one moment. `connection` has asyncpg's
    `fetch(query, *arguments)`. Raises `TooManyRows`."""
    text, arguments = statement(query)
    total, *rows = await connection.fetch(text, *arguments)
    if len(rows) > ROWS_MAX:
        raise TooManyRows
    names = (*query.groups, *query.measures)
    return {
        "from": query.start.isoformat(),
        "to": query.end.isoformat(),
        "zone": query.zone,
        "totals": {name: total[name] for name in MEASURES},
        "rows": [{name: row[name] for name in names} for row in rows],
    }
