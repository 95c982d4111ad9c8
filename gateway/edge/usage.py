"""`GET /v1/usage`: the calling tenant's usage, from the one query of `billing.usage`."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from asyncpg import InvalidParameterValueError, PostgresError

from billing.link import Link
from billing.usage import GROUPS, UsageQuery, usage
from gateway.edge.exchange import Exchange
from gateway.faults import Fault

PARAMETERS = frozenset({"from", "to", "group_by", "zone"})
SPAN_DAYS_MAX = 400
ZONE_DETAIL = "an IANA time-zone name such as Asia/Tokyo"
YEAR_MIN, YEAR_MAX = 1970, 9998  # beyond, a time may have no form in UTC


async def usage_answer(
    link: Link, exchange: Exchange, parameters: Mapping[str, str], now: datetime
) -> dict[str, object]:
    """The answer for `from`, `to` (RFC 3339 or a date), `group_by` (comma-separated) and `zone` (IANA name).

    Without `from` the calendar month of the zone begins the span; without `to` it ends at `now`.
    """
    assert exchange.tenant is not None
    for name in parameters:
        if name not in PARAMETERS:
            raise Fault("unknown_parameter", param=name)
    zone_name = parameters.get("zone", exchange.tenant.zone)
    zone = _zone(zone_name)
    month = now.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = _time("from", parameters, zone) or month
    end = _time("to", parameters, zone) or now + timedelta(seconds=1)
    if not start < end or end - start > timedelta(days=SPAN_DAYS_MAX):
        raise Fault("invalid_value", param="to", detail=f"later than from, by {SPAN_DAYS_MAX} days at most")
    query = UsageQuery(exchange.tenant.tenant_id, start, end, zone_name, _groups(parameters.get("group_by", "")))
    try:
        return await usage(link, query)
    except InvalidParameterValueError:  # a zone that Python's data has and PostgreSQL's has not
        raise Fault("invalid_value", param="zone", detail=ZONE_DETAIL) from None
    except (OSError, PostgresError) as error:
        raise Fault("store_unavailable", retry_after_s=1, internal=repr(error)) from error


def _groups(text: str) -> list[str]:
    groups = [part.strip() for part in text.split(",") if part.strip()]
    for group in groups:
        if group not in GROUPS:
            raise Fault("invalid_value", param="group_by", detail=f"one of {', '.join(GROUPS)}")
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
