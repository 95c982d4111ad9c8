"""API keys: `/tenants/{tenant_id}/keys` and `/keys/{key_id}`. A key's text is in the answer that issues it, and nowhere
else."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import Query

from gateway.control.access import CredentialReader, CredentialWriter
from gateway.control.answers import IssuedKey, Key, Listed
from gateway.control.audit import Action
from gateway.control.credential_forms import AccessChange, AccessFields, Environment, NewKey, Rotation
from gateway.control.credential_store import with_last_use
from gateway.control.credentials import require_in_force, revives, revoke
from gateway.control.paging import Paging
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import KEY, Page
from gateway.control.work import Work
from gateway.faults import Fault

routes = router("keys")


@routes.get("/tenants/{tenant_id}/keys", response_model=Listed[Key])
async def list_keys(work: CredentialReader, tenant_id: str, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """A tenant's keys, revoked and expired ones too."""
    rows = await work.page(KEY, paging.page(KEY, tenant_id=tenant_id))
    return paging.answer(KEY, await with_last_use(work.connection, KEY, rows))


@routes.post("/tenants/{tenant_id}/keys", status_code=201, response_model=IssuedKey)
async def issue_key(work: CredentialWriter, tenant_id: str, body: NewKey) -> Row:
    """A new key, with its text."""
    return await issue(work, tenant_id, body, body.environment)


@routes.get("/keys/{key_id}", response_model=Key)
async def show_key(work: CredentialReader, key_id: str) -> Row:
    """One key."""
    return (await with_last_use(work.connection, KEY, [await work.get(KEY, key_id)]))[0]


@routes.patch("/keys/{key_id}", response_model=Key)
async def update_key(work: CredentialWriter, key_id: str, body: AccessChange) -> Row:
    """Change what the body names. What runs already goes on under what held when it began."""
    row, changes = await work.get(KEY, key_id), body.given()
    if "expires_at" in changes and revives(work, row, changes["expires_at"]) and await _successors(work, key_id):
        detail = "another key has taken its place, so its end may only come earlier"
        raise Fault("wrong_state", param="expires_at", kind=KEY.kind, name=key_id, detail=detail)
    return await work.amend(KEY, row, AccessFields, changes)


@routes.post("/keys/{key_id}/rotate", status_code=201, response_model=IssuedKey)
async def rotate_key(work: CredentialWriter, key_id: str, body: Rotation) -> Row:
    """A successor with the same rights, with its text. The old key ends after `overlap_s` seconds."""
    old = await work.get(KEY, key_id)
    require_in_force(work, KEY, old)
    if await _successors(work, key_id):
        raise Fault("wrong_state", kind=KEY.kind, name=key_id, detail="it has a successor already")
    new = work.new_key(body.environment)
    kept = {name: value for name, value in old.items() if name not in ("created_at", "pepper_id")}
    row = await work.create(
        KEY, {**kept, "key_id": new.key_id, "mac": new.mac, "pepper_id": new.pepper_id, "replaces": key_id},
        Action.ROTATE,
    )  # fmt: skip
    end = work.now + timedelta(seconds=body.overlap_s)
    if old["expires_at"] is None or work.time_of(old["expires_at"]) > end:
        await work.update(KEY, old, {"expires_at": end})
    return {**row, "key": new.text}


@routes.post("/keys/{key_id}/revoke", response_model=Key)
async def revoke_key(work: CredentialWriter, key_id: str) -> Row:
    """End a key for good: gateways know within a second, running streams end within five. Twice is as good as once."""
    return await revoke(work, KEY, key_id)


async def _successors(work: Work, key_id: str) -> list[Row]:
    return await work.page(KEY, Page({"replaces": key_id}, limit=1))


async def issue(work: Work, tenant_id: str, form: AccessFields, environment: Environment) -> Row:
    """A new key of `tenant_id`, with its text under `key`."""
    new = work.new_key(environment)
    values = {**form.model_dump(exclude={"environment"}), "tenant_id": tenant_id}
    row = await work.create(KEY, {**values, "key_id": new.key_id, "mac": new.mac, "pepper_id": new.pepper_id})
    return {**row, "key": new.text}
