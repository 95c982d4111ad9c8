"""Closed documents in the book. They are written once, in the transaction that makes them, and looked up."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from billing.invoices import parties
from billing.invoices.assemble import CreditUse
from billing.invoices.document import decode, digest, encode
from billing.invoices.entries import Entry
from billing.invoices.parties import Issuer
from billing.invoices.types import Invoice

_INSERT = """
INSERT INTO invoice (invoice_id, number, kind, issuer_id, tenant_id, counterparty, period, period_start, period_end,
  issued_on, total_yen, corrects, document, sha256, closed_at)
VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7, from_micros($8), from_micros($9), $10, $11, $12, $13, $14,
  from_micros($15))
"""

_ENTRIES = """
INSERT INTO ledger_entry (request_id, line, account, tenant_id, kind, quantity, unit_price, debit, credit, booked_at,
  source)
SELECT $1::text::uuid, e.n, side.account, $2, e.kind, 1, e.micro_yen, side.debit, side.credit, from_micros($3), e.source
FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[]) WITH ORDINALITY
  AS e(source, kind, debited, credited, micro_yen, n)
CROSS JOIN LATERAL (VALUES (e.debited, e.micro_yen, 0::bigint), (e.credited, 0::bigint, e.micro_yen))
  AS side(account, debit, credit)
"""

_FRACTIONS = """
INSERT INTO carried_fraction (tenant_id, line_key, period_end, invoice_id, micro_yen)
SELECT $1, f.line_key, from_micros($2), $3::text::uuid, f.micro_yen
FROM unnest($4::text[], $5::integer[]) AS f(line_key, micro_yen)
"""

_USES = """
INSERT INTO prepaid_use (credit_id, invoice_id, period_end, used_yen, expired_yen)
SELECT u.credit_id, $1::text::uuid, from_micros($2), u.used_yen, u.expired_yen
FROM unnest($3::text[], $4::bigint[], $5::bigint[]) AS u(credit_id, used_yen, expired_yen)
"""

_LAST = """
SELECT period, (extract(epoch FROM period_end) * 1000000)::bigint AS period_end FROM invoice
WHERE tenant_id = $1 AND kind = 'invoice' ORDER BY period_end DESC LIMIT 1
"""

# Width and case of letters make no difference to who is looked for (Unicode NFKC).
_FIND = """
SELECT document FROM invoice WHERE ($1::text IS NULL OR tenant_id = $1)
  AND ($2::date IS NULL OR issued_on >= $2) AND ($3::date IS NULL OR issued_on <= $3)
  AND ($4::bigint IS NULL OR total_yen >= $4) AND ($5::bigint IS NULL OR total_yen <= $5)
  AND ($6::text IS NULL OR strpos(lower(normalize(counterparty, NFKC)), lower(normalize($6, NFKC))) > 0)
  AND ($7::text IS NULL OR period = $7) AND ($8::text IS NULL OR number = $8)
ORDER BY issued_on, number LIMIT $9
"""

FIND_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Search:
    """Conditions that all must hold; None asks for nothing. Days and yen are inclusive; `counterparty` is a part of the
    recipient's name."""

    issued_from: date | None = None
    issued_to: date | None = None
    min_yen: int | None = None
    max_yen: int | None = None
    counterparty: str | None = None
    period: str | None = None
    number: str | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """The last month of a tenant that has an invoice; `end` in microseconds since the epoch."""

    period: str
    end: int


async def insert(
    connection: Any, issuer_id: str, invoice: Invoice, entries: Sequence[Entry], booked_at: int, now: int
) -> str:
    """Write a closed document with its entries in the ledger; returns its text."""
    text = encode(invoice)
    await connection.execute(
        _INSERT, invoice.invoice_id, invoice.number, invoice.kind.value, issuer_id, invoice.tenant_id,
        invoice.recipient.name, invoice.period, invoice.period_start, invoice.period_end, invoice.issued_on,
        invoice.total_yen, invoice.corrects or None, text, digest(text), now,
    )  # fmt: skip
    await connection.execute(
        _ENTRIES, invoice.invoice_id, invoice.tenant_id, booked_at, [entry.source for entry in entries],
        [entry.kind for entry in entries], [entry.debit for entry in entries], [entry.credit for entry in entries],
        [entry.micro_yen for entry in entries],
    )  # fmt: skip
    return text


async def insert_rests(connection: Any, invoice: Invoice, uses: Sequence[CreditUse]) -> None:
    """Write what an invoice carries to the next, and what it has taken of credits."""
    kept = [line for line in invoice.lines if line.carried_in_micro_yen or line.carried_out_micro_yen]
    await connection.execute(
        _FRACTIONS, invoice.tenant_id, invoice.period_end, invoice.invoice_id, [line.key for line in kept],
        [line.carried_out_micro_yen for line in kept],
    )  # fmt: skip
    await connection.execute(
        _USES, invoice.invoice_id, invoice.period_end, [use.credit_id for use in uses],
        [use.used_yen for use in uses], [use.expired_yen for use in uses],
    )  # fmt: skip


async def tell(connection: Any, tenant_id: str, record: str) -> None:
    """Write a record of the tax log, in the transaction of what it records."""
    await connection.execute(
        "INSERT INTO audit_pending (tenant_id, log, record) VALUES ($1, 'tax', $2)", tenant_id, record
    )


async def last_closed(connection: Any, tenant_id: str) -> Closed | None:
    """The tenant's last closed month; None before the first."""
    row = await connection.fetchrow(_LAST, tenant_id)
    return None if row is None else Closed(row["period"], row["period_end"])


async def text_of(connection: Any, tenant_id: str | None, number: str) -> str | None:
    """The document's text as it was closed; None when there is none, or it is another tenant's."""
    text: str | None = await connection.fetchval(
        "SELECT document FROM invoice WHERE number = $1 AND ($2::text IS NULL OR tenant_id = $2)", number, tenant_id
    )
    return text


async def issuer_of(connection: Any, number: str) -> Issuer:
    """Who issued a document, as entered now. Prefix and first month of the numbers are as they were then: they never
    change."""
    issuer_id = await connection.fetchval("SELECT issuer_id FROM invoice WHERE number = $1", number)
    issuer = await parties.issuer_of(connection, issuer_id)
    assert issuer is not None  # a foreign key
    return issuer


async def of_period(connection: Any, tenant_id: str, period: str) -> Invoice | None:
    """The tenant's invoice of a month; None while it is open."""
    text = await connection.fetchval(
        "SELECT document FROM invoice WHERE tenant_id = $1 AND period = $2 AND kind = 'invoice'", tenant_id, period
    )
    return None if text is None else decode(text)


async def notes_of(connection: Any, number: str) -> list[Invoice]:
    """The credit notes that correct an invoice, oldest first."""
    rows = await connection.fetch("SELECT document FROM invoice WHERE corrects = $1 ORDER BY invoice_id", number)
    return [decode(row["document"]) for row in rows]


async def search(connection: Any, tenant_id: str | None, wanted: Search) -> list[Invoice]:
    """Documents by day, at most `FIND_MAX`."""
    rows = await connection.fetch(
        _FIND, tenant_id, wanted.issued_from, wanted.issued_to, wanted.min_yen, wanted.max_yen, wanted.counterparty,
        wanted.period, wanted.number, FIND_MAX,
    )  # fmt: skip
    return [decode(row["document"]) for row in rows]
