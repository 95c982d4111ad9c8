"""What is only read: the registers, the administration log, and the description of the plane."""

from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import Field

from gateway.control import fields as f
from gateway.control.access import AuditReader, Describer, RegisterReader
from gateway.control.answers import AuditEntry, Listed
from gateway.control.audit_store import Entries, entries
from gateway.control.forms import Form
from gateway.control.paging import LIMIT_MAX
from gateway.control.route import router
from gateway.licensing.registers import DIMENSIONS, REGISTERS

routes = router("reading")


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
