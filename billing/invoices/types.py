"""Value types of invoices: what a document says, independent of how it is stored or printed.

Unless a field says otherwise: money in whole yen (`*_yen`) or integer micro-yen (`*_micro_yen`), times in microseconds
since the Unix epoch (UTC), dates as calendar dates of the tenant's zone. A credit note has the signs of an invoice: its
amounts are positive and are given back.
"""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Literal


class DocumentKind(StrEnum):
    """適格請求書 or 適格返還請求書 (消費税法 57条の4 第1項, 第3項)."""

    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"


LineKind = Literal["usage", "package", "provisioned", "commitment"]
"""What a line charges for: tokens, packages of tokens, provisioned throughput, the true-up to a commitment."""

Unit = Literal["token", "package", "unit_hour", "month"]


@dataclass(frozen=True, slots=True)
class Party:
    """Issuer or recipient. `registration_number` is `T` and 13 digits, the issuer's only; '' where not known.
    `bank_account` is where to pay, as people write it, the issuer's only; '' when nothing is paid by transfer."""

    name: str
    registration_number: str = ""
    hojin_bangou: str = ""
    postal_code: str = ""
    address: str = ""
    country: str = "JP"
    email: str = ""
    bank_account: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One price line: floored to yen once, the rest carried to the same line of the next invoice.

    `key` identifies the price line over months (the carried fraction belongs to it). `unit_price` is in whole yen per
    `per` units (1,000,000 tokens, or 1). `micro_yen + carried_in_micro_yen = yen · 10⁶ + carried_out_micro_yen`.
    """

    number: int
    key: str
    kind: LineKind
    model: str
    token_kind: str
    tier: str
    rate_card_id: str
    quantity: int
    unit: Unit
    unit_price: int
    per: int
    micro_yen: int
    carried_in_micro_yen: int
    yen: int
    carried_out_micro_yen: int
    tax_permille: int
    reduced: bool = False


@dataclass(frozen=True, slots=True)
class TaxTotal:
    """Consumption tax of one rate, rounded down once per document. `taxable_yen` excludes the tax."""

    tax_permille: int
    reduced: bool
    taxable_yen: int
    tax_yen: int


@dataclass(frozen=True, slots=True)
class Invoice:
    """A document. `number` is '' while it is a draft; a closed one never changes.

    `subtotal_yen` excludes tax; `total_yen` includes it; `prepaid_yen` is prepaid credit used up by it;
    `payable_yen = total_yen - prepaid_yen`. `corrects` is the number of the invoice that a credit note corrects and
    `corrects_issued_on` its date.
    """

    invoice_id: str
    number: str
    kind: DocumentKind
    state: Literal["draft", "closed"]
    tenant_id: str
    issuer: Party
    recipient: Party
    period: str
    zone: str
    period_start: int
    period_end: int
    issued_on: date
    due_on: date
    lines: tuple[Line, ...]
    taxes: tuple[TaxTotal, ...]
    subtotal_yen: int
    tax_yen: int
    total_yen: int
    prepaid_yen: int
    payable_yen: int
    corrects: str = ""
    corrects_issued_on: date | None = None
    reason: str = ""
    watermark: int = 0
