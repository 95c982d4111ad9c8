"""What engines did that no tenant pays for, by reason: the platform's own account beside the tenants' usage."""

from typing import Any

from billing.usage import ROWS_MAX, TOKENS, TooManyRows, UsageQuery

MEASURES = ("attempts", *TOKENS)
# A row counts when it was booked: what is found late adds to the present and never to a span that was told already.
_COLUMNS = {
    "reason": "reason",
    "model": "model",
    "month": "to_char(created_at AT TIME ZONE $3::text, 'YYYY-MM')",
    "day": "to_char(created_at AT TIME ZONE $3::text, 'YYYY-MM-DD')",
    "hour": "to_char(date_trunc('hour', created_at AT TIME ZONE $3::text), 'YYYY-MM-DD\"T\"HH24:00')",
}
_PLATFORM = """
SELECT {columns}, count(*) AS attempts, {sums} FROM platform_usage
WHERE created_at >= $1 AND created_at < $2 AND $3::text IS NOT NULL AND ($4::text IS NULL OR model = $4)
GROUP BY {positions} ORDER BY {positions} LIMIT {limit}
"""


async def platform_usage(connection: Any, query: UsageQuery) -> dict[str, Any]:
    """`{"totals", "rows"}` of the span of `query`: by reason, and by what else it groups that attempts have (model and
    times); of its filters `model` counts. Raises `TooManyRows`."""
    names = [name for name in _COLUMNS if name == "reason" or name in query.group_by]
    text = _PLATFORM.format(
        columns=", ".join(f"{_COLUMNS[name]} AS {name}" for name in names), limit=ROWS_MAX + 1,
        sums=", ".join(f"sum({name})::bigint AS {name}" for name in TOKENS),
        positions=", ".join(str(number + 1) for number in range(len(names))),
    )  # fmt: skip
    found = await connection.fetch(text, query.start, query.end, query.zone, query.where.get("model"))
    if len(found) > ROWS_MAX:
        raise TooManyRows
    rows = [{name: row[name] for name in (*names, *MEASURES)} for row in found]
    return {"totals": {name: sum(row[name] for row in rows) for name in MEASURES}, "rows": rows}
