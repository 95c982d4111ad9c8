"""`/usage`: usage of every tenant within reach, and of one, from the query that a tenant's own answer comes from."""

from datetime import timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from asyncpg import InvalidParameterValueError
from fastapi import Query, Request
from fastapi.responses import Response
from pydantic import Field

from billing.platform_usage import platform_usage
from billing.usage import FILTERS, TooManyRows, UsageQuery, usage
from gateway.control import fields as f
from gateway.control.access import UsageReader
from gateway.control.forms import Form
from gateway.control.route import router
from gateway.control.tables import TENANT
from gateway.control.work import Work
from gateway.edge.document import JSON, Document
from gateway.edge.usage import SPAN_DAYS_MAX, ZONE_DETAIL, csv_document, too_many_rows, wants_csv
from gateway.faults import Fault

routes = router("usage")

ZONE = "Asia/Tokyo"  # of what is told of several tenants


class UsageSpan(Form):
    """Usage booked in [`from`, `to`), by `group_by` (comma-separated), in `zone`; the filters narrow it. A time without
    an offset is one of the zone. Without `from` the calendar month begins the span, without `to` it ends now."""

    start: f.LocalTime | None = Field(default=None, alias="from")
    end: f.LocalTime | None = Field(default=None, alias="to")
    zone: f.Zone | None = None
    group_by: f.Groups = ""
    project: f.Text | None = None
    model: f.Text | None = None
    key: f.Text | None = None
    outcome: f.UsageOutcome | None = None
    format: Literal["json", "csv"] | None = None


class AllUsage(UsageSpan):
    """Usage of every tenant within reach, or of `tenant`."""

    tenant: f.TenantId | None = None


@routes.get("/usage")
async def show_all_usage(work: UsageReader, request: Request, span: Annotated[AllUsage, Query()]) -> Response:
    """Usage of the tenants within reach; with the platform's own account for who sees every tenant."""
    reach = work.actor.reach
    if span.tenant is not None:
        await work.get(TENANT, span.tenant)  # out of reach is like not there
    tenants = reach.argument() if span.tenant is None else [span.tenant]
    query = _query(work, span, None if tenants is None else tuple(tenants), span.zone or ZONE)
    as_csv = wants_csv(span.format, request.headers.get("accept", ""))
    answer = await _usage(work, query, platform=tenants is None and not as_csv)
    return _response(query, answer, as_csv=as_csv)


@routes.get("/tenants/{tenant_id}/usage")
async def show_usage(
    work: UsageReader, request: Request, tenant_id: str, span: Annotated[UsageSpan, Query()]
) -> Response:
    """A tenant's usage, from the query that the tenant's own answer comes from."""
    zone = span.zone or (await work.get(TENANT, tenant_id))["zone"]
    query = _query(work, span, (tenant_id,), zone)
    as_csv = wants_csv(span.format, request.headers.get("accept", ""))
    return _response(query, await _usage(work, query), as_csv=as_csv)


def _query(work: Work, span: UsageSpan, tenants: tuple[str, ...] | None, zone_name: str) -> UsageQuery:
    zone = ZoneInfo(zone_name)
    month = work.now.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = f.in_zone(span.start, zone) or month
    end = f.in_zone(span.end, zone) or work.now.astimezone(zone) + timedelta(seconds=1)
    if not start < end or end - start > timedelta(days=SPAN_DAYS_MAX):
        raise Fault("invalid_value", param="to", detail=f"later than from, by {SPAN_DAYS_MAX} days at most")
    where = {name: value for name in FILTERS if (value := getattr(span, name)) is not None}
    return UsageQuery(tenants, start, end, zone_name, [part for part in span.group_by.split(",") if part], where)


async def _usage(work: Work, query: UsageQuery, *, platform: bool = False) -> dict[str, Any]:
    try:
        answer = await usage(work.connection, query)
        return {**answer, "platform": await platform_usage(work.connection, query)} if platform else answer
    except TooManyRows:
        raise too_many_rows() from None
    except InvalidParameterValueError:  # a zone that Python's data has and PostgreSQL's has not
        raise Fault("invalid_value", param="zone", detail=ZONE_DETAIL) from None


def _response(query: UsageQuery, answer: dict[str, Any], *, as_csv: bool) -> Response:
    document = csv_document(query, answer) if as_csv else Document(JSON, msgspec.json.encode(answer))
    return document_response(document)


def document_response(document: Document) -> Response:
    """`document` as an answer of the admin plane."""
    headers = {name.decode("ascii"): value.decode("ascii") for name, value in document.headers}
    return Response(document.body, headers=headers)
