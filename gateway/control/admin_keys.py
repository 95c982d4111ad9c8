"""`/admin-keys`: who may use the admin plane; `/whoami`: what the asking key may do."""

from typing import Annotated, Any

from fastapi import Query

from gateway.control.access import AdminKeyReader, AdminKeyWriter, Describer
from gateway.control.answers import AdminKey, Caller, IssuedAdminKey, Listed
from gateway.control.audit import Action
from gateway.control.credential_forms import NewAdminKey
from gateway.control.paging import Paging
from gateway.control.roles import GRANTED
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import ADMIN_KEY, TENANT

routes = router("admin keys")


@routes.get("/whoami", response_model=Caller)
async def show_caller(work: Describer) -> dict[str, Any]:
    """The admin key that asks."""
    actor = work.actor
    return {
        "key_id": actor.key_id,
        "role": actor.role,
        "tenants": actor.reach.argument(),
        "permissions": sorted(GRANTED[actor.role]),
    }


@routes.get("/admin-keys", response_model=Listed[AdminKey])
async def list_admin_keys(work: AdminKeyReader, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """All of them, revoked ones too."""
    return paging.answer(ADMIN_KEY, await work.page(ADMIN_KEY, paging.page(ADMIN_KEY)))


@routes.post("/admin-keys", status_code=201, response_model=IssuedAdminKey)
async def issue_admin_key(work: AdminKeyWriter, body: NewAdminKey) -> Row:
    """A new admin key, with its text."""
    for tenant_id in body.tenants:
        await work.get(TENANT, tenant_id)
    new = work.new_key(body.environment, prefix="ska")
    values = {**body.model_dump(exclude={"environment"}), "role": body.role.value}
    row = await work.create(ADMIN_KEY, {**values, "key_id": new.key_id, "mac": new.mac, "pepper_id": new.pepper_id})
    return {**row, "key": new.text}


@routes.post("/admin-keys/{key_id}/revoke", response_model=AdminKey)
async def revoke_admin_key(work: AdminKeyWriter, key_id: str) -> Row:
    """End an admin key for good; its next request is refused."""
    row = await work.get(ADMIN_KEY, key_id)
    if row["revoked_at"] is not None:
        return row
    return await work.update(ADMIN_KEY, row, {"revoked_at": work.now}, Action.REVOKE)
