"""Numbers of documents: one series per issuer, kind and year, without gaps.

The counter is a row that the closing transaction holds until its end: a closing that fails takes its number back, and
two closings of one issuer come one after the other.
"""

from datetime import date
from typing import Any

from billing.invoices.parties import Issuer
from billing.invoices.types import DocumentKind

_NEXT = """
INSERT INTO document_counter (issuer_id, kind, year, last) VALUES ($1, $2, $3, 1)
ON CONFLICT (issuer_id, kind, year) DO UPDATE SET last = document_counter.last + 1 RETURNING last
"""

_LETTERS = {DocumentKind.INVOICE: "INV", DocumentKind.CREDIT_NOTE: "CRN"}


async def next_number(connection: Any, issuer: Issuer, kind: DocumentKind, issued_on: date) -> str:
    """The next number of the series, such as `INV-2026-000001`; taken for good when the transaction is committed."""
    year = series_year(issued_on, issuer.year_begins)
    last = await connection.fetchval(_NEXT, issuer.issuer_id, kind.value, year)
    prefix = f"{issuer.number_prefix}-" if issuer.number_prefix else ""
    return f"{prefix}{_LETTERS[kind]}-{year}-{last:06d}"


def series_year(issued_on: date, year_begins: int) -> int:
    """The year in which the issuer's year with `issued_on` began."""
    return issued_on.year if issued_on.month >= year_begins else issued_on.year - 1
