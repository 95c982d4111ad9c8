"""How a tenant's limits stand, and raises of them for a while: `/tenants/{tenant_id}/limits` and `/raises`."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import Query, Request

from gateway.control.access import TenantReader, TenantUpdater
from gateway.control.answers import EffectiveLimits, Listed, Raise
from gateway.control.audit import Action
from gateway.control.credentials import new_id
from gateway.control.forms import NewRaise
from gateway.control.paging import Paging
from gateway.control.plane import Plane
from gateway.control.refusals import not_found
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import CLIENT, ISSUER, KEY, LICENCE, PROJECT, RAISE, Page, Table
from gateway.control.work import Work
from gateway.faults import Fault

RAISE_DAYS_MAX = 400

routes = router("limits")


@routes.get("/tenants/{tenant_id}/limits", response_model=EffectiveLimits)
async def show_limits(work: TenantReader, tenant_id: str, request: Request) -> dict[str, Any]:
    """Every limit at every level: what is used, held and left, which level binds, and when it is whole again."""
    plane: Plane = request.app.state.plane
    return await plane.limits.of_tenant(tenant_id)


@routes.get("/tenants/{tenant_id}/raises", response_model=Listed[Raise])
async def list_raises(work: TenantReader, tenant_id: str, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """A tenant's raises; past, revoked and coming ones too."""
    return paging.answer(RAISE, await work.page(RAISE, paging.page(RAISE, tenant_id=tenant_id)))


@routes.post("/tenants/{tenant_id}/raises", status_code=201, response_model=Raise)
async def raise_limit(work: TenantUpdater, tenant_id: str, body: NewRaise) -> Row:
    """A higher limit until `ends_at`, when it ends by itself."""
    starts_at = body.starts_at or work.now
    longest = timedelta(days=RAISE_DAYS_MAX)
    if not max(starts_at, work.now) < body.ends_at or body.ends_at - starts_at > longest:
        detail = f"later than starts_at and than now, by {RAISE_DAYS_MAX} days at most"
        raise Fault("invalid_value", param="ends_at", detail=detail)
    await _require_level(work, tenant_id, body.level)
    values = {**body.model_dump(), "starts_at": starts_at, "tenant_id": tenant_id, "created_by": work.actor.key_id}
    return await work.create(RAISE, {"raise_id": new_id("lr"), **values})


@routes.post("/raises/{raise_id}/revoke", response_model=Raise)
async def revoke_raise(work: TenantUpdater, raise_id: str) -> Row:
    """End a raise before its time. Twice is as good as once."""
    row = await work.get(RAISE, raise_id)
    if row["revoked_at"] is not None:
        return row
    return await work.update(RAISE, row, {"revoked_at": work.now}, Action.REVOKE)


async def _require_level(work: Work, tenant_id: str, level: str) -> None:
    """Raises `Fault("object_not_found")` for a level that the tenant does not have."""
    kind, _, name = level.partition(":")
    places: dict[str, list[tuple[Table, str, str]]] = {
        "tenant": [],
        "licence": [(LICENCE, "licence_id", name.partition("/")[0])],
        "project": [(PROJECT, "project_id", name)],
        "key": [(KEY, "key_id", name), (CLIENT, "client_id", name), (ISSUER, "issuer_id", name)],
    }
    for table, column, value in places[kind]:
        if await work.page(table, Page({"tenant_id": tenant_id, column: value}, limit=1)):
            return
    if places[kind]:
        raise not_found(kind, name, "level")
