"""Pure: what was used and agreed in a month becomes a document. The same input gives the same bytes, for ever.

Every price line is rounded down to whole yen once; what is cut off is carried to the same line of a later month. Tax is
rounded down once per rate, on the sum of the lines of that rate (適格請求書, 消費税法 57条の4; 同施行令 70条の10).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import groupby
from typing import Literal

from billing.agreements import Agreement, Commitment, Credit, Provisioned
from billing.invoices.period import Period
from billing.invoices.refused import InvoiceRefused
from billing.invoices.types import DocumentKind, Invoice, Line, Party, TaxTotal
from billing.month import charges
from billing.prices import KINDS, MICRO, TaxCategory
from billing.rating import RateCard


@dataclass(frozen=True, slots=True)
class Quantity:
    """Tokens of one kind that a month's requests used under one card, or under one of its variants."""

    card: RateCard
    kind: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Header:
    """Who writes to whom, and when."""

    invoice_id: str
    number: str
    state: Literal["draft", "closed"]
    tenant_id: str
    issuer: Party
    recipient: Party
    issued_on: date
    due_on: date


@dataclass(frozen=True, slots=True)
class Basis:
    """Everything that a month costs by. `carried` are fractions by line key, `rates` tax in permille by category."""

    period: Period
    quantities: Sequence[Quantity]
    agreements: Sequence[Agreement]
    carried: Mapping[str, int]
    credits: Sequence[Credit]
    rates: Mapping[TaxCategory, int]


@dataclass(frozen=True, slots=True)
class CreditUse:
    """What a closing takes of a credit, and what of it has expired; whole yen."""

    credit_id: str
    used_yen: int
    expired_yen: int


def assemble(header: Header, basis: Basis) -> tuple[Invoice, tuple[CreditUse, ...]]:
    """The document of a month, and what it takes of the tenant's credits."""
    lines = tuple(_lines(basis))
    taxes = tax_totals(lines)
    subtotal, tax = sum(line.yen for line in lines), sum(entry.tax_yen for entry in taxes)
    uses = tuple(_uses(basis, subtotal + tax))
    prepaid = sum(use.used_yen for use in uses)
    period = basis.period
    invoice = Invoice(
        header.invoice_id, header.number, DocumentKind.INVOICE, header.state, header.tenant_id, header.issuer,
        header.recipient, period.name, period.zone, period.start, period.end, header.issued_on, header.due_on, lines,
        taxes, subtotal, tax, subtotal + tax, prepaid, subtotal + tax - prepaid,
        watermark=period.end if header.state == "closed" else 0,
    )  # fmt: skip
    return invoice, uses


def tax_totals(lines: Sequence[Line]) -> tuple[TaxTotal, ...]:
    """Tax by rate, the higher rate first; a reduced rate stands apart from an ordinary one of the same height."""

    def rate(line: Line) -> tuple[int, bool]:
        return -line.tax_permille, line.reduced

    totals = []
    for (permille, reduced), members in groupby(sorted(lines, key=rate), key=rate):
        taxable = sum(line.yen for line in members)
        totals.append(TaxTotal(-permille, reduced, taxable, taxable * -permille // 1000))
    return tuple(totals)


def _lines(basis: Basis) -> Iterator[Line]:
    """Tokens by model, kind and tier; then throughput; then what is missing to what was promised."""
    charged: list[Line] = []
    for line in (*_token_lines(basis), *_provisioned_lines(basis)):
        charged.append(replace(line, number=len(charged) + 1))
    for shortfall in _commitment_lines(basis, tuple(charged)):
        charged.append(replace(shortfall, number=len(charged) + 1))
    yield from charged


def _token_lines(basis: Basis) -> Iterator[Line]:
    def order(quantity: Quantity) -> tuple[str, int, int, str, str]:
        card = quantity.card
        return card.model, card.effective_from, KINDS.index(quantity.kind), card.rate_card_id, card.variant

    for (*_, _card_id, _variant), members in groupby(sorted(basis.quantities, key=order), key=order):
        same = list(members)
        card, kind = same[0].card, same[0].kind
        for charge in charges(card, kind, sum(quantity.tokens for quantity in same)):
            yield _line(
                basis, f"{charge.kind}/{charge.rate_card_id}/{kind}/{charge.tier}", charge.micro_yen, card.terms.tax,
                kind=charge.kind, model=charge.model, token_kind=kind, tier=charge.tier,
                rate_card_id=charge.rate_card_id, quantity=charge.quantity,
                unit="token" if charge.kind == "usage" else "package", unit_price=charge.unit_price, per=charge.per,
            )  # fmt: skip


def _provisioned_lines(basis: Basis) -> Iterator[Line]:
    for agreement in sorted(basis.agreements, key=lambda one: one.agreement_id):
        terms = agreement.terms
        if not isinstance(terms, Provisioned):
            continue
        if terms.per == "hour":
            quantity = terms.units * agreement.full_hours(basis.period.start, basis.period.end)
        else:
            quantity = terms.units if agreement.covers(basis.period.start) else 0
        if quantity:
            yield _line(
                basis, f"provisioned/{agreement.agreement_id}", quantity * terms.unit_price * MICRO, terms.tax,
                kind="provisioned", model=terms.model, quantity=quantity,
                unit="unit_hour" if terms.per == "hour" else "month", unit_price=terms.unit_price, per=1,
            )  # fmt: skip


def _commitment_lines(basis: Basis, lines: Sequence[Line]) -> Iterator[Line]:
    for agreement in sorted(basis.agreements, key=lambda one: one.agreement_id):
        terms = agreement.terms
        if not isinstance(terms, Commitment) or not agreement.covers(basis.period.start):
            continue
        spent = sum(line.yen for line in lines if not terms.models or line.model in terms.models)
        missing = terms.minimum_yen - spent
        if missing > 0:
            yield _line(
                basis, f"commitment/{agreement.agreement_id}", missing * MICRO, terms.tax, kind="commitment",
                model=", ".join(terms.models), quantity=1, unit="month", unit_price=missing, per=1,
            )  # fmt: skip


def _line(
    basis: Basis, key: str, micro_yen: int, category: TaxCategory, *, token_kind: str = "", tier: str = "",
    rate_card_id: str = "", **facts: object,
) -> Line:  # fmt: skip
    if category not in basis.rates:
        raise InvoiceRefused("tax_rate_missing", "period", f"no {category} rate on {basis.period.last_day}")
    carried = basis.carried.get(key, 0)
    yen, rest = divmod(micro_yen + carried, MICRO)
    return Line(
        number=0, key=key, token_kind=token_kind, tier=tier, rate_card_id=rate_card_id, micro_yen=micro_yen,
        carried_in_micro_yen=carried, yen=yen, carried_out_micro_yen=rest, tax_permille=basis.rates[category],
        reduced=category == "reduced", **facts,  # type: ignore[arg-type]
    )  # fmt: skip


def _uses(basis: Basis, total_yen: int) -> Iterator[CreditUse]:
    """Credits by expiry, the earliest first; what has expired by the end of the month is gone after it."""
    open_yen = total_yen
    for credit in sorted(basis.credits, key=lambda one: (one.expires_at, one.credit_id)):
        if credit.left_yen == 0 or credit.granted_at >= basis.period.end:
            continue
        used = min(credit.left_yen, open_yen) if credit.expires_at > basis.period.start else 0
        expired = credit.left_yen - used if credit.expires_at <= basis.period.end else 0
        open_yen -= used
        if used or expired:
            yield CreditUse(credit.credit_id, used, expired)
