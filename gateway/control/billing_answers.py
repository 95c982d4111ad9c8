"""What the admin plane answers about money. Prices are yen per 1M tokens; money is whole yen unless the name says
micro-yen."""

from typing import Any

from gateway.control.answers import Answer


class RateCard(Answer):
    """Prices of a model."""

    rate_card_id: str
    model: str
    family: str
    tenant_id: str | None
    effective_from: str
    effective_to: str | None
    input_price: int
    cached_input_price: int
    output_price: int
    terms: dict[str, Any]


class Agreement(Answer):
    """What a tenant has agreed to pay besides tokens."""

    agreement_id: str
    tenant_id: str
    effective_from: str
    effective_to: str | None
    terms: dict[str, Any]
    created_at: str


class Credit(Answer):
    """Money paid ahead; `left_yen` is what closed months have not used of it."""

    credit_id: str
    tenant_id: str
    yen: int
    left_yen: int
    effective_from: str
    expires_at: str
    note: str
    created_at: str


class Address(Answer):
    """Who, and where."""

    name: str
    hojin_bangou: str
    postal_code: str
    address: str
    country: str
    email: str


class BillingIssuer(Address):
    """Who issues invoices."""

    issuer_id: str
    registration_number: str
    bank_account: str
    number_prefix: str
    year_begins: int
    due_months: int


class TenantParty(Address):
    """Who gets a tenant's invoices. `issuer_id` is null where nobody would issue them; with `entered` false it is the
    tenant under its legal name, by the only issuer there is."""

    issuer_id: str | None
    entered: bool


class InvoiceHead(Answer):
    """What a document is looked up by. A credit note's amounts are given back."""

    number: str
    kind: str
    tenant_id: str
    counterparty: str
    period: str
    issued_on: str
    due_on: str
    subtotal_yen: int
    tax_yen: int
    total_yen: int
    prepaid_yen: int
    payable_yen: int
    corrects: str


class InvoiceList(Answer):
    """Documents in the order of their days."""

    data: list[InvoiceHead]


class Rerating(Answer):
    """SHA-256 of a document as it was closed, and as it comes out of the journal now."""

    number: str
    identical: bool
    frozen: str
    now: str
