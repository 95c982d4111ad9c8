"""OAuth clients and a tenant's own OpenID issuers: `/tenants/{tenant_id}/clients`, `/clients/{client_id}`, and the same
for issuers."""

from typing import Annotated, Any

from fastapi import Query

from gateway.control.access import CredentialReader, CredentialWriter
from gateway.control.answers import Client, Issuer, Listed
from gateway.control.credential_forms import ClientChange, IssuerChange, NewClient, NewIssuer
from gateway.control.credential_store import with_last_use
from gateway.control.credentials import new_id, revoke
from gateway.control.paging import Paging
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import CLIENT, ISSUER, Table
from gateway.control.work import Work

routes = router("clients")


@routes.get("/tenants/{tenant_id}/clients", response_model=Listed[Client])
async def list_clients(work: CredentialReader, tenant_id: str, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """A tenant's clients, revoked ones too."""
    return await _listed(work, CLIENT, tenant_id, paging)


@routes.post("/tenants/{tenant_id}/clients", status_code=201, response_model=Client)
async def create_client(work: CredentialWriter, tenant_id: str, body: NewClient) -> Row:
    """A new client of the token endpoint; its private key stays with the tenant."""
    return await work.create(CLIENT, {"client_id": new_id("oc"), "tenant_id": tenant_id, **body.model_dump()})


@routes.get("/clients/{client_id}", response_model=Client)
async def show_client(work: CredentialReader, client_id: str) -> Row:
    """One client."""
    return await _shown(work, CLIENT, client_id)


@routes.patch("/clients/{client_id}", response_model=Client)
async def update_client(work: CredentialWriter, client_id: str, body: ClientChange) -> Row:
    """Change what the body names; another `jwks` rotates the client's keys."""
    return await work.amend(CLIENT, await work.get(CLIENT, client_id), NewClient, body.given())


@routes.post("/clients/{client_id}/revoke", response_model=Client)
async def revoke_client(work: CredentialWriter, client_id: str) -> Row:
    """End a client for good, and every token that it has."""
    return await revoke(work, CLIENT, client_id)


@routes.get("/tenants/{tenant_id}/issuers", response_model=Listed[Issuer])
async def list_issuers(work: CredentialReader, tenant_id: str, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """A tenant's OpenID issuers, revoked ones too."""
    return await _listed(work, ISSUER, tenant_id, paging)


@routes.post("/tenants/{tenant_id}/issuers", status_code=201, response_model=Issuer)
async def create_issuer(work: CredentialWriter, tenant_id: str, body: NewIssuer) -> Row:
    """A new issuer. One issuer speaks for one tenant."""
    return await work.create(ISSUER, {"issuer_id": new_id("oi"), "tenant_id": tenant_id, **body.model_dump()})


@routes.get("/issuers/{issuer_id}", response_model=Issuer)
async def show_issuer(work: CredentialReader, issuer_id: str) -> Row:
    """One issuer."""
    return await _shown(work, ISSUER, issuer_id)


@routes.patch("/issuers/{issuer_id}", response_model=Issuer)
async def update_issuer(work: CredentialWriter, issuer_id: str, body: IssuerChange) -> Row:
    """Change what the body names."""
    return await work.amend(ISSUER, await work.get(ISSUER, issuer_id), NewIssuer, body.given())


@routes.post("/issuers/{issuer_id}/revoke", response_model=Issuer)
async def revoke_issuer(work: CredentialWriter, issuer_id: str) -> Row:
    """End an issuer for good, and every token of it."""
    return await revoke(work, ISSUER, issuer_id)


async def _listed(work: Work, table: Table, tenant_id: str, paging: Paging) -> dict[str, Any]:
    rows = await work.page(table, paging.page(table, tenant_id=tenant_id))
    return paging.answer(table, await with_last_use(work.connection, table, rows))


async def _shown(work: Work, table: Table, credential_id: str) -> Row:
    return (await with_last_use(work.connection, table, [await work.get(table, credential_id)]))[0]
