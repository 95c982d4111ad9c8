"""`/trust-keys`: the public keys whose signatures on licences count."""

import base64
from typing import Annotated, Any

from fastapi import Query

from gateway.control.access import TrustReader, TrustWriter
from gateway.control.answers import Listed, TrustKey
from gateway.control.audit import Action
from gateway.control.forms import NewTrustKey, Retirement
from gateway.control.paging import Paging
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import TRUST_KEY
from gateway.control.work import Work
from gateway.faults import Fault
from gateway.licensing.keys import key_id_of

routes = router("trust")


@routes.get("/trust-keys", response_model=Listed[TrustKey])
async def list_trust_keys(work: TrustReader, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """All of them, revoked ones too."""
    return paging.answer(TRUST_KEY, await work.page(TRUST_KEY, paging.page(TRUST_KEY)))


@routes.post("/trust-keys", status_code=201, response_model=TrustKey)
async def add_trust_key(work: TrustWriter, body: NewTrustKey) -> Row:
    """Trust a key of a party."""
    return await work.create(TRUST_KEY, trust_values(body))


@routes.get("/trust-keys/{key_id}", response_model=TrustKey)
async def show_trust_key(work: TrustReader, key_id: str) -> Row:
    """One key."""
    return await work.get(TRUST_KEY, key_id)


@routes.post("/trust-keys/{key_id}/retire", response_model=TrustKey)
async def retire_trust_key(work: TrustWriter, key_id: str, body: Retirement) -> Row:
    """From `not_after` on the key signs no more contracts; what it signed before stays valid."""
    row = await work.get(TRUST_KEY, key_id)
    end = body.not_after or work.now
    if row["not_after"] is not None and work.time_of(row["not_after"]) < end:
        raise Fault("wrong_state", kind=TRUST_KEY.kind, name=key_id, detail="it ends earlier already")
    if end <= work.time_of(row["not_before"]):
        raise Fault("invalid_value", param="not_after", detail="later than not_before")
    return await work.update(TRUST_KEY, row, {"not_after": end}, Action.RETIRE)


@routes.post("/trust-keys/{key_id}/revoke", response_model=TrustKey)
async def revoke_trust_key(work: TrustWriter, key_id: str) -> Row:
    """Nothing that the key ever signed counts any more: every licence with its signature ends."""
    return await revoke(work, key_id)


async def revoke(work: Work, key_id: str) -> Row:
    """The row, revoked now if it was not yet."""
    row = await work.get(TRUST_KEY, key_id)
    if row["revoked_at"] is not None:
        return row
    return await work.update(TRUST_KEY, row, {"revoked_at": work.now}, Action.REVOKE)


def trust_values(form: NewTrustKey) -> dict[str, Any]:
    """The row's values; the id follows from the key. Raises `Fault` when the key ends before it begins."""
    if form.not_after is not None and form.not_after <= form.not_before:
        raise Fault("invalid_value", param="not_after", detail="later than not_before")
    return {**form.model_dump(exclude={"state"}), "key_id": key_id_of(base64.b64decode(form.public_key))}
