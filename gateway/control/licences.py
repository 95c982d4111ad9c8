"""`/licences`: a signed envelope comes in, is admitted or refused with a finding, and is revoked for good."""

import json
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import Field

from gateway.control import fields as f
from gateway.control.access import LicenceReader, LicenceRevoker, LicenceSubmitter
from gateway.control.answers import Licence, Listed, WholeLicence
from gateway.control.audit import Action, digest_of
from gateway.control.door import language_in
from gateway.control.forms import Envelope, Revocation
from gateway.control.licence_store import line_of, newest_row, newest_rows
from gateway.control.paging import Paging
from gateway.control.priority_forms import SubmittedLicence
from gateway.control.refusals import Problem, not_found
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import LICENCE, TENANT
from gateway.control.work import Work
from gateway.licensing.admit import admit
from gateway.licensing.envelope import open_envelope
from gateway.licensing.findings import Finding
from gateway.licensing.registers import REGISTERS
from gateway.licensing.times import to_us
from gateway.priority.checks import check_licence, notices
from gateway.tenancy.store import read_register, read_trust

routes = router("licences")


class LicenceQuery(Paging):
    """Which licences: of one tenant, or of all within reach."""

    tenant_id: f.TenantId | None = Field(default=None, alias="tenant")


@routes.get("/licences", response_model=Listed[Licence])
async def list_licences(work: LicenceReader, query: Annotated[LicenceQuery, Query()]) -> dict[str, Any]:
    """The newest version of each licence."""
    rows = await newest_rows(work.connection, query.tenant_id, query.after, query.limit, work.actor.reach)
    more = len(rows) == query.limit
    return {"data": [shown(row) for row in rows], "next": rows[-1]["licence_id"] if more else None}


@routes.post("/licences", status_code=201, response_model=SubmittedLicence)
async def submit_licence(work: LicenceSubmitter, body: Envelope, request: Request) -> Row:
    """Put a licence into force. What is stored already is answered as it is; a finding refuses everything else."""
    row = await submit(work, body.envelope)
    told = [Problem(one.path, one) for one in await noticed(work, body.envelope)]
    language = language_in(request.scope)
    return {**shown(row), "notices": [one.outside(language) for one in told]}


@routes.get("/licences/{licence_id}", response_model=WholeLicence)
async def show_licence(work: LicenceReader, licence_id: str) -> Row:
    """The newest version, with its document and envelope."""
    return shown(await _newest(work, licence_id))


@routes.post("/licences/{licence_id}/revoke", response_model=Licence)
async def revoke_licence(work: LicenceRevoker, licence_id: str, body: Revocation) -> Row:
    """End a licence for good, and with it every licence that is cut from it."""
    return shown(await revoke(work, licence_id, body.reason))


async def submit(work: Work, envelope: str) -> Row:
    """The row of the licence, stored if it was not yet. Raises `Finding`, or `Fault` for a tenant out of reach.

    An id that is another tenant's is judged as a free one would be, to the end: only who has every signature for it is
    told that it is taken.
    """
    document = open_envelope(envelope).document
    tenant_id = document.licensee.tenant
    if not work.actor.reach.covers(tenant_id):
        raise not_found(TENANT.kind, tenant_id, "licensee.tenant")
    await work.get(TENANT, tenant_id)
    parent_id = None if document.parent is None else document.parent.licence_id
    line = await line_of(work.connection, document.licence_id, parent_id)
    newest = {licence_id: kept.stored for licence_id, kept in line.items()}
    stored = newest.get(document.licence_id)
    foreign = stored is not None and not work.actor.reach.covers(stored.document.licensee.tenant)
    if foreign:
        del newest[document.licence_id]
    if parent_id in newest and not _may_be_seen(work, newest[parent_id].document.licensee.tenant, document.issuer):
        del newest[parent_id]
    sealed = admit(envelope, await read_trust(work.connection), REGISTERS, newest, to_us(work.now))
    if foreign:
        raise Finding("tenant_mismatch", "licence_id", "the id is taken")
    if stored is not None and stored.digest == sealed.digest:
        return await _newest(work, document.licence_id)
    check_licence(document, newest, await read_register(work.connection))
    values = {
        "licence_id": document.licence_id,
        "version": document.version,
        "tenant_id": tenant_id,
        "parent_licence_id": parent_id,
        "document": json.loads(sealed.payload),
        "envelope": sealed.text,
    }
    return await work.create(LICENCE, values)


async def noticed(work: Work, envelope: str) -> list[Finding]:
    """What a licence that may be stored says without effect, as things are."""
    document = open_envelope(envelope).document
    line = await line_of(work.connection, None if document.parent is None else document.parent.licence_id)
    newest = {licence_id: kept.stored for licence_id, kept in line.items()}
    return notices(document, newest, await read_register(work.connection))


async def revoke(work: Work, licence_id: str, reason: str) -> Row:
    """The newest version, revoked now if it was not yet."""
    row = await _newest(work, licence_id)
    if row["revoked_at"] is not None:
        return row
    return await work.update(LICENCE, row, {"revoked_at": work.now, "revoke_reason": reason}, Action.REVOKE)


def shown(row: Row) -> Row:
    """The row with the digest of its envelope."""
    return {**row, "digest": None if row["envelope"] is None else digest_of(row["envelope"])}


def _may_be_seen(work: Work, parent_tenant: str, issuer: str) -> bool:
    """Whether a parent licence may be told of: it is within reach, or its own tenant has signed the child as issuer."""
    return parent_tenant == issuer or work.actor.reach.covers(parent_tenant)


async def _newest(work: Work, licence_id: str) -> Row:
    row = await newest_row(work.connection, licence_id, work.actor.reach)
    if row is None:
        raise not_found(LICENCE.kind, licence_id)
    return row
