"""What is only read: the registers, a tenant's usage, the administration log, and the description of the plane."""

from datetime import timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import Query, Request
from pydantic import Field

from billing.usage import UsageQuery, usage
from gateway.control import fields as f
from gateway.control.access import AuditReader, Describer, RegisterReader, UsageReader
from gateway.control.answers import AuditEntry, Listed
from gateway.control.audit_store import Entries, entries
from gateway.control.forms import Form
from gateway.control.paging import LIMIT_MAX
from gateway.control.route import router
from gateway.control.tables import TENANT
from gateway.edge.usage import SPAN_DAYS_MAX
from gateway.faults import Fault
from gateway.licensing.registers import DIMENSIONS, REGISTERS

routes = router("reading")


class UsageSpan(Form):
    """Usage settled in [`from`, `to`), by `group_by` (comma-separated), in `zone`. A time without an offset is one of
    the zone. Without `from` the calendar month begins the span, without `to` it ends now."""

    start: f.LocalTime | None = Field(default=None, alias="from")
    end: f.LocalTime | None = Field(default=None, alias="to")
    zone: f.Zone | None = None
    group_by: f.Groups = ""


class AuditQuery(Form):
    """Which acts, newest first. `verb` may end in `*`; `before` is the `next` of the last page."""

    tenant_id: f.TenantId | None = Field(default=None, alias="tenant")
    start: f.Time | None = Field(default=None, alias="from")
    end: f.Time | None = Field(default=None, alias="to")
    actor: f.Text | None = None
    verb: f.Text | None = None
    object_id: f.Text | None = Field(default=None, alias="object")
    before: int | None = Field(default=None, ge=1, le=2**63 - 1)
    limit: int = Field(default=100, ge=1, le=LIMIT_MAX)


@routes.get("/registers")
async def show_registers(work: RegisterReader) -> dict[str, Any]:
    """The codes that licences and credentials may name, with their titles in Japanese and English."""
    return {"version": REGISTERS.version, **{name: REGISTERS.titles[name] for name in DIMENSIONS}}


@routes.get("/tenants/{tenant_id}/usage")
async def show_usage(work: UsageReader, tenant_id: str, span: Annotated[UsageSpan, Query()]) -> dict[str, Any]:
    """A tenant's usage, from the query that the tenant's own answer comes from."""
    zone_name = span.zone or (await work.get(TENANT, tenant_id))["zone"]
    zone = ZoneInfo(zone_name)
    month = work.now.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = f.in_zone(span.start, zone) or month
    end = f.in_zone(span.end, zone) or work.now.astimezone(zone) + timedelta(seconds=1)
    if not start < end or end - start > timedelta(days=SPAN_DAYS_MAX):
        raise Fault("invalid_value", param="to", detail=f"later than from, by {SPAN_DAYS_MAX} days at most")
    groups = [group for group in span.group_by.split(",") if group]
    return await usage(work.connection, UsageQuery(tenant_id, start, end, zone_name, groups))


@routes.get("/audit", response_model=Listed[AuditEntry])
async def show_audit(work: AuditReader, query: Annotated[AuditQuery, Query()]) -> dict[str, Any]:
    """The acts of administrators, newest first."""
    found = await entries(work.connection, Entries(**query.model_dump()), work.actor.reach)
    more = len(found) == query.limit
    return {"data": found, "next": str(found[-1]["id"]) if more else None}


@routes.get("/openapi.json")
async def describe(work: Describer, request: Request) -> dict[str, Any]:
    """This plane as OpenAPI; `x-permission` is what each route asks for."""
    described: dict[str, Any] = request.app.openapi()
    return described
