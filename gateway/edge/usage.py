"""`GET /v1/usage`: the calling tenant's usage, from the one query of `billing.usage`."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from asyncpg import InvalidParameterValueError, PostgresError

from billing.types import Outcome
from billing.usage import FILTERS, OWN_GROUPS, ROWS_MAX, TooManyRows, UsageQuery, usage
from billing.usage_csv import usage_csv
from gateway.edge.document import JSON, Document
from gateway.edge.exchange import Exchange
from gateway.edge.queries import Queries
from gateway.faults import Fault

PARAMETERS = frozenset({"from", "to", "group_by", "zone", "format", *FILTERS})
FORMATS = ("json", "csv")
SPAN_DAYS_MAX = 400
FILTER_CHARS_MAX = 200
ZONE_DETAIL = "an IANA time-zone name such as Asia/Tokyo"
YEAR_MIN, YEAR_MAX = 1970, 9998  # beyond, a time may have no form in UTC
CSV_TYPE = "text/csv; charset=utf-8"


async def usage_answer(
    queries: Queries, exchange: Exchange, parameters: Mapping[str, str], accept: str, now: datetime
) -> Document:
    """The answer for `from`, `to` (RFC 3339 or a date), `group_by` (comma-separated), `zone` (IANA name) and the
    filters; as CSV where `format` or else the header `Accept` says so.

    Without `from` the calendar month of the zone begins the span; without `to` it ends at `now`.
    """
    assert exchange.tenant is not None
    as_csv = wants_csv(parameters.get("format"), accept)
    query = _query(exchange.tenant.tenant_id, exchange.tenant.zone, parameters, now)
    try:
        answer = await usage(queries.of(exchange.tenant.tenant_id), query)
    except TooManyRows:
        raise too_many_rows() from None
    except InvalidParameterValueError:  # a zone that Python's data has and PostgreSQL's has not
        raise Fault("invalid_value", param="zone", detail=ZONE_DETAIL) from None
    except (OSError, PostgresError) as error:
        raise Fault("store_unavailable", retry_after_s=1, internal=repr(error)) from error
    return csv_document(query, answer) if as_csv else Document(JSON, msgspec.json.encode(answer))


def csv_document(query: UsageQuery, answer: Mapping[str, object]) -> Document:
    """The answer as a file."""
    name = f"usage-{query.start:%Y%m%d}-{query.end:%Y%m%d}.csv"
    return Document(CSV_TYPE, usage_csv(query, answer), name)


def wants_csv(stated: str | None, accept: str) -> bool:
    """Whether CSV is asked for: by the parameter `format`, else by `Accept` (RFC 9110 §12.5.1) where it names CSV and
    not JSON. Raises `Fault`."""
    if stated is not None and stated not in FORMATS:
        raise Fault("invalid_value", param="format", detail=f"one of {', '.join(FORMATS)}")
    if stated is not None:
        return stated == "csv"
    named = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return "text/csv" in named and "application/json" not in named


def too_many_rows() -> Fault:
    """The answer would be too long."""
    return Fault("too_many_rows", param="group_by", limit=ROWS_MAX)


def _query(tenant_id: str, own_zone: str, parameters: Mapping[str, str], now: datetime) -> UsageQuery:
    for name in parameters:
        if name not in PARAMETERS:
            raise Fault("unknown_parameter", param=name)
    zone_name = parameters.get("zone", own_zone)
    zone = _zone(zone_name)
    month = now.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = _time("from", parameters, zone) or month
    end = _time("to", parameters, zone) or now + timedelta(seconds=1)
    if not start < end or end - start > timedelta(days=SPAN_DAYS_MAX):
        raise Fault("invalid_value", param="to", detail=f"later than from, by {SPAN_DAYS_MAX} days at most")
    where = {name: _filter(name, parameters[name]) for name in FILTERS if name in parameters}
    return UsageQuery((tenant_id,), start, end, zone_name, _groups(parameters.get("group_by", "")), where)


def _filter(name: str, value: str) -> str:
    if len(value) > FILTER_CHARS_MAX or not value.isprintable():
        raise Fault("invalid_value", param=name, detail=f"at most {FILTER_CHARS_MAX} printable characters")
    if name == "outcome" and value not in set(Outcome):
        raise Fault("invalid_value", param=name, detail=f"one of {', '.join(Outcome)}")
    return value


def _groups(text: str) -> list[str]:
    groups = [part.strip() for part in text.split(",") if part.strip()]
    for group in groups:
        if group not in OWN_GROUPS:
            raise Fault("invalid_value", param="group_by", detail=f"one of {', '.join(OWN_GROUPS)}")
    return groups


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Fault("invalid_value", param="zone", detail=ZONE_DETAIL) from None


def _time(name: str, parameters: Mapping[str, str], zone: ZoneInfo) -> datetime | None:
    text = parameters.get(name)
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Fault("invalid_value", param=name, detail="an RFC 3339 time or a date") from None
    if not YEAR_MIN <= at.year <= YEAR_MAX:
        raise Fault("invalid_value", param=name, detail=f"a year from {YEAR_MIN} to {YEAR_MAX}")
    return at if at.tzinfo is not None else at.replace(tzinfo=zone)
