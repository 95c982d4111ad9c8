"""Rates a closed month again from the journal and compares the result with what was frozen, byte by byte."""

from dataclasses import dataclass
from typing import Any

from billing.invoices import store
from billing.invoices.assemble import Header, assemble
from billing.invoices.basis_store import read_basis
from billing.invoices.document import decode, digest, encode
from billing.invoices.period import Period
from billing.invoices.refused import InvoiceRefused
from billing.invoices.types import DocumentKind


@dataclass(frozen=True, slots=True)
class Rerated:
    """SHA-256 (hex) of the document as it was frozen and as it comes out now, and the latter's text. Where they differ,
    journal, cards, agreements or tax rates of the month are not what they were: a finding."""

    number: str
    frozen: str
    now: str
    text: str

    @property
    def identical(self) -> bool:
        """Whether both are the same bytes."""
        return self.frozen == self.now


async def rerate(connection: Any, number: str) -> Rerated:
    """Rate the month of an invoice again. Who, when and under which number is taken from the document; quantities,
    prices, agreements, fractions, credits and tax from where they came then. Raises `InvoiceRefused`."""
    text = await store.text_of(connection, None, number)
    if text is None:
        raise InvoiceRefused("invoice_not_found", "number", f"there is no invoice {number[:40]!r}")
    frozen = decode(text)
    if frozen.kind is not DocumentKind.INVOICE:
        raise InvoiceRefused("not_an_invoice", "number", "a credit note is not rated")
    header = Header(
        frozen.invoice_id, frozen.number, frozen.state, frozen.tenant_id, frozen.issuer, frozen.recipient,
        frozen.issued_on, frozen.due_on,
    )  # fmt: skip
    month = Period(frozen.period, frozen.zone, frozen.period_start, frozen.period_end)
    again = encode(assemble(header, await read_basis(connection, frozen.tenant_id, month))[0])
    return Rerated(number, digest(text).hex(), digest(again).hex(), again)
