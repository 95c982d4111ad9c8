"""What tenants have agreed to pay besides tokens, what they have paid ahead, and who their invoices go to."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query

from billing.agreements import Agreement as Agreed
from billing.agreements import Credit as PaidAhead
from billing.agreements import check_agreement, parse_agreement
from billing.invoices.parties import parties_of
from billing.prices import BadTerms
from billing.prices_store import credits_of, put_credit
from gateway.control.access import AgreementReader, AgreementWriter
from gateway.control.answers import Listed
from gateway.control.billing_answers import Agreement, Credit, TenantParty
from gateway.control.billing_forms import BillingParty, Ending, NewAgreement, NewCredit
from gateway.control.billing_refusals import fault_of
from gateway.control.paging import Paging
from gateway.control.rate_cards import check_end
from gateway.control.refusals import not_found
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import AGREEMENT, BILLING_ISSUER, BILLING_PARTY, CREDIT, Page
from gateway.control.work import Work
from gateway.licensing.times import to_us

routes = router("agreements")


@routes.get("/tenants/{tenant_id}/agreements", response_model=Listed[Agreement])
async def list_agreements(
    work: AgreementReader, tenant_id: str, paging: Annotated[Paging, Query()]
) -> dict[str, Any]:  # fmt: skip
    """A tenant's commitments and provisioned throughput, past and future ones too."""
    return paging.answer(AGREEMENT, await work.page(AGREEMENT, paging.page(AGREEMENT, tenant_id=tenant_id)))


@routes.post("/tenants/{tenant_id}/agreements", status_code=201, response_model=Agreement)
async def create_agreement(work: AgreementWriter, tenant_id: str, body: NewAgreement) -> Row:
    """A new agreement. It begins after the tenant's last closed month."""
    check_terms(tenant_id, body)
    return await work.create(AGREEMENT, {"tenant_id": tenant_id, **body.model_dump()})


@routes.get("/agreements/{agreement_id}", response_model=Agreement)
async def show_agreement(work: AgreementReader, agreement_id: str) -> Row:
    """One agreement."""
    return await work.get(AGREEMENT, agreement_id)


@routes.patch("/agreements/{agreement_id}", response_model=Agreement)
async def update_agreement(work: AgreementWriter, agreement_id: str, body: Ending) -> Row:
    """Set or lift the end of an agreement that has not ended; `effective_from` withdraws one that has not begun."""
    row = await work.get(AGREEMENT, agreement_id)
    check_end(work, row, body.effective_to)
    return await work.amend(AGREEMENT, row, NewAgreement, body.model_dump())


@routes.get("/tenants/{tenant_id}/credits", response_model=Listed[Credit])
async def list_credits(work: AgreementReader, tenant_id: str, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """What a tenant has paid ahead, and what is left of it."""
    answer = paging.answer(CREDIT, await work.page(CREDIT, paging.page(CREDIT, tenant_id=tenant_id)))
    return {**answer, "data": await _with_left(work, tenant_id, answer["data"])}


@routes.post("/tenants/{tenant_id}/credits", status_code=201, response_model=Credit)
async def create_credit(work: AgreementWriter, tenant_id: str, body: NewCredit) -> Row:
    """Enter money that came in; it is booked at once, and used by the invoices that follow."""
    granted, expires = to_us(body.effective_from), to_us(body.expires_at)
    credit = PaidAhead(body.credit_id, tenant_id, body.yen, granted, expires, body.yen)
    try:
        row = await work.created(CREDIT, put_credit(work.connection, credit, body.note), body.credit_id)
    except BadTerms as bad:
        raise fault_of(bad) from None
    return (await _with_left(work, tenant_id, [row]))[0]


@routes.get("/tenants/{tenant_id}/billing-party", response_model=TenantParty)
async def show_party(work: AgreementReader, tenant_id: str) -> Mapping[str, Any]:
    """Who gets a tenant's invoices."""
    row = await _entered(work, tenant_id)
    if row is not None:
        return {**row, "entered": True}
    parties = await parties_of(work.connection, tenant_id)
    to = parties.recipient
    return {
        "entered": False, "issuer_id": None if parties.issuer is None else parties.issuer.issuer_id, "name": to.name,
        "hojin_bangou": to.hojin_bangou, "postal_code": to.postal_code, "address": to.address, "country": to.country,
        "email": to.email,
    }  # fmt: skip


@routes.post("/tenants/{tenant_id}/billing-party", response_model=TenantParty)
async def enter_party(work: AgreementWriter, tenant_id: str, body: BillingParty) -> Mapping[str, Any]:
    """Enter or replace who gets a tenant's invoices, and from which issuer. Closed documents keep what they said."""
    if not await work.page(BILLING_ISSUER, Page({"issuer_id": body.issuer_id}, limit=1)):
        raise not_found(BILLING_ISSUER.kind, body.issuer_id, "issuer_id")
    row = await _entered(work, tenant_id)
    if row is None:
        row = await work.create(BILLING_PARTY, {"tenant_id": tenant_id, **body.model_dump()})
    else:
        row = await work.update(BILLING_PARTY, row, body.model_dump())
    return {**row, "entered": True}


def check_terms(tenant_id: str, body: NewAgreement) -> None:
    """Raises `Fault` for terms that mean nothing."""
    try:
        terms = parse_agreement(json.dumps(body.terms))
        end = None if body.effective_to is None else to_us(body.effective_to)
        check_agreement(Agreed(body.agreement_id, tenant_id, to_us(body.effective_from), end, terms))
    except BadTerms as bad:
        raise fault_of(bad) from None


async def _entered(work: Work, tenant_id: str) -> Row | None:
    rows = await work.page(BILLING_PARTY, Page({"tenant_id": tenant_id}, limit=1))
    return rows[0] if rows else None


async def _with_left(work: Work, tenant_id: str, rows: list[Row]) -> list[Row]:
    left = {credit.credit_id: credit.left_yen for credit in await credits_of(work.connection, tenant_id)}
    return [{**row, "left_yen": left[row["credit_id"]]} for row in rows]
