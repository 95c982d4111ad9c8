"""`/billing-issuers`: who issues qualified invoices (適格請求書発行事業者). Most platforms have one."""

from typing import Annotated, Any

from fastapi import Query

from gateway.control.access import BillingIssuerReader, BillingIssuerWriter
from gateway.control.answers import Listed
from gateway.control.billing_answers import BillingIssuer
from gateway.control.billing_forms import IssuerChange, NewIssuer
from gateway.control.paging import Paging
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import BILLING_ISSUER

routes = router("billing issuers")


@routes.get("/billing-issuers", response_model=Listed[BillingIssuer])
async def list_issuers(work: BillingIssuerReader, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """All of them."""
    return paging.answer(BILLING_ISSUER, await work.page(BILLING_ISSUER, paging.page(BILLING_ISSUER)))


@routes.post("/billing-issuers", status_code=201, response_model=BillingIssuer)
async def create_issuer(work: BillingIssuerWriter, body: NewIssuer) -> Row:
    """A new issuer, with a registration number whose check digit is right."""
    return await work.create(BILLING_ISSUER, body.model_dump())


@routes.get("/billing-issuers/{issuer_id}", response_model=BillingIssuer)
async def show_issuer(work: BillingIssuerReader, issuer_id: str) -> Row:
    """One issuer."""
    return await work.get(BILLING_ISSUER, issuer_id)


@routes.patch("/billing-issuers/{issuer_id}", response_model=BillingIssuer)
async def update_issuer(work: BillingIssuerWriter, issuer_id: str, body: IssuerChange) -> Row:
    """Change what the body names. Closed documents keep what they said."""
    return await work.amend(BILLING_ISSUER, await work.get(BILLING_ISSUER, issuer_id), NewIssuer, body.given())
