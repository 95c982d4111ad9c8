"""The life of an invoice: draft → closed → credit notes. Functions take an asyncpg connection.

Closing is two transactions, after one that only reads: what cannot be read, or does not agree, seals nothing. The first
moves the tenant's watermark to the month's end, under a lock that settlement waits for, and is over in a moment: from
then on nothing can land before it, and late facts land in the next month. The second reads the month at leisure and
freezes it: document, number, ledger entries, carried fractions and tax record, all or nothing. A process that dies in
between leaves a sealed month without an invoice; closing it again goes on there. Call `close` outside of a transaction:
within one, settlement waits until that ends.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import uuid_utils

from billing.invoices import store
from billing.invoices.assemble import Basis, Header, assemble, tax_totals
from billing.invoices.basis_store import provisional, read_basis
from billing.invoices.document import decode, tax_record
from billing.invoices.entries import closing_entries, credit_entries
from billing.invoices.numbers import next_number
from billing.invoices.parties import Issuer, Parties, check_registration, parties_of
from billing.invoices.period import Period, day_at, due_on, following, month_at, month_of
from billing.invoices.refused import InvoiceRefused
from billing.invoices.types import DocumentKind, Invoice, Line, Party
from billing.prices import MICRO

Record = Callable[[Invoice], str]

# How long one statement of a closing may read; the connection's own limit is for answers that somebody waits for.
READING_S_MAX = 600.0

# When anything was first charged, or agreed; and when the tenant was entered.
_FIRST = """
SELECT (extract(epoch FROM least(
  (SELECT min(booked_at) FROM journal WHERE tenant_id = $1 AND booked_at IS NOT NULL
     AND (prompt_tokens > 0 OR completion_tokens > 0)),
  (SELECT min(effective_from) FROM billing_agreement
     WHERE tenant_id = $1 AND effective_to IS DISTINCT FROM effective_from))) * 1000000)::bigint AS charged_at,
  (extract(epoch FROM created_at) * 1000000)::bigint AS entered_at
FROM tenant WHERE tenant_id = $1
"""


async def preview(connection: Any, tenant_id: str, period: str) -> Invoice:
    """What the month costs as of now, by the same calculation as its closing; of a closed month, its invoice.

    Nothing is stored. Of a month before which another is still open, the fractions and credits that the other would
    leave are not known yet. Raises `InvoiceRefused`.
    """
    parties = await parties_of(connection, tenant_id)
    month = await _month(connection, tenant_id, period, parties.zone)
    closed = await store.of_period(connection, tenant_id, period)
    if closed is not None:
        return closed
    header = _header(tenant_id, parties, month, day_at(month.end, month.zone))
    return assemble(header, await read_basis(connection, tenant_id, month))[0]


async def close(
    connection: Any, tenant_id: str, period: str, now_us: int, record: Record = tax_record
) -> Invoice:  # fmt: skip
    """Seal the month and freeze its invoice. `record` makes the entry of the tax log. Raises `InvoiceRefused`."""
    parties, issuer, month = await _closable(connection, tenant_id, period, now_us)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        basis, booked = await _read(connection, tenant_id, month)
        invoice, uses = assemble(_header(tenant_id, parties, month, day_at(now_us, month.zone)), basis)
        closing_entries(invoice, booked, uses)
    async with connection.transaction():
        await _seal(connection, tenant_id, month)
    async with connection.transaction():
        await _one_at_a_time(connection, tenant_id)
        await _check_open(connection, tenant_id, period)
        return await _freeze(connection, tenant_id, (parties, issuer, month), now_us, record)


async def credit(
    connection: Any, number: str, reason: str, lines: Mapping[int, int] | None, now_us: int, record: Record = tax_record
) -> Invoice:
    """Give back yen of an invoice's lines (line number → yen without tax; None: all that is left), with their tax.

    The note is its issuer's who issued the invoice, whoever invoices the tenant by now. The tax is rounded down once
    per rate of the note, so giving back in parts may leave a yen of tax per part. Raises `InvoiceRefused`.
    """
    async with connection.transaction():
        invoice = await load(connection, None, number)
        if invoice is None:
            raise InvoiceRefused("invoice_not_found", "number", f"there is no invoice {number[:40]!r}")
        if invoice.kind is not DocumentKind.INVOICE:
            raise InvoiceRefused("not_an_invoice", "number", "a credit note cannot be credited")
        if not reason.strip():
            raise InvoiceRefused("reason_missing", "reason", "a credit note says why")
        await _one_at_a_time(connection, invoice.tenant_id)
        given = _given_back(invoice, await store.notes_of(connection, number), lines)
        issuer = await store.issuer_of(connection, number)
        note = await _note(connection, invoice, issuer, given, reason, now_us)
        booked_at = await connection.fetchval(
            "SELECT (extract(epoch FROM greatest(closed_until, from_micros($2))) * 1000000)::bigint"
            " FROM billing_account WHERE tenant_id = $1",
            invoice.tenant_id, now_us,
        )  # fmt: skip
        await store.insert(connection, issuer.issuer_id, note, credit_entries(note), booked_at, now_us)
        await store.tell(connection, note.tenant_id, record(note))
        return note


async def find(
    connection: Any, tenant_id: str | None, *, issued_from: date | None = None, issued_to: date | None = None,
    min_yen: int | None = None, max_yen: int | None = None, counterparty: str | None = None, period: str | None = None,
    number: str | None = None,
) -> list[Invoice]:  # fmt: skip
    """Documents by day, amount and counterparty, with ranges and in any combination (電子帳簿保存法施行規則 4条);
    of all tenants where `tenant_id` is None."""
    wanted = store.Search(issued_from, issued_to, min_yen, max_yen, counterparty, period, number)
    return await store.search(connection, tenant_id, wanted)


async def load(connection: Any, tenant_id: str | None, number: str) -> Invoice | None:
    """The document of this number; None when there is none, or it is another tenant's."""
    text = await store.text_of(connection, tenant_id, number)
    return None if text is None else decode(text)


async def _closable(
    connection: Any, tenant_id: str, period: str, now_us: int
) -> tuple[Parties, Issuer, Period]:  # fmt: skip
    """Who, and the month. Raises `InvoiceRefused` unless this month is the one to be closed now."""
    parties = await parties_of(connection, tenant_id)
    month = await _month(connection, tenant_id, period, parties.zone)
    await _check_open(connection, tenant_id, period)
    await _check_order(connection, tenant_id, month)
    if now_us < month.end:
        raise InvoiceRefused("period_not_over", "period", f"{period} still runs in {month.zone}")
    if parties.issuer is None:
        raise _no_issuer()
    check_registration(parties.issuer.party)
    if not parties.recipient.name.strip():
        raise InvoiceRefused("recipient_missing", "name", "the tenant's billing party has no name")
    return parties, parties.issuer, month


async def _month(connection: Any, tenant_id: str, period: str, zone: str) -> Period:
    """It begins where the one before was closed, whatever the zone was then."""
    last = await store.last_closed(connection, tenant_id)
    if last is not None and following(last.period) == period:
        return month_of(period, zone, last.end)
    return month_of(period, zone)


async def _check_open(connection: Any, tenant_id: str, period: str) -> None:
    if await store.of_period(connection, tenant_id, period) is not None:
        raise InvoiceRefused("period_closed", "period", f"{period} has its invoice; corrections are credit notes")


async def _check_order(connection: Any, tenant_id: str, month: Period) -> None:
    last = await store.last_closed(connection, tenant_id)
    expected = await _first_month(connection, tenant_id, month) if last is None else following(last.period)
    if month.name != expected:
        raise InvoiceRefused("period_out_of_order", "period", f"{expected} has to be closed before {month.name}")


async def _first_month(connection: Any, tenant_id: str, month: Period) -> str:
    """`month` where the first closing may be of it, else the month to be closed first. Nothing is charged before the
    tenant was entered unless it is dated back: an earlier month is a slip of the pen, and could never be undone."""
    row = await connection.fetchrow(_FIRST, tenant_id)
    charged_at, entered_at = row["charged_at"], row["entered_at"]
    earliest = entered_at if charged_at is None else min(charged_at, entered_at)
    if month.end <= earliest:
        return month_at(earliest, month.zone)
    return month.name if charged_at is None or charged_at >= month.start else month_at(charged_at, month.zone)


async def _seal(connection: Any, tenant_id: str, month: Period) -> None:
    """Settlement reads the row under a share lock of its key, which only the strongest lock conflicts with: an UPDATE
    of `closed_until` alone would pass by a settlement that has not seen it."""
    await connection.fetchval("SELECT 1 FROM billing_account WHERE tenant_id = $1 FOR UPDATE", tenant_id)
    await connection.execute(
        "UPDATE billing_account SET closed_until = greatest(closed_until, from_micros($2)) WHERE tenant_id = $1",
        tenant_id, month.end,
    )  # fmt: skip


async def _read(
    connection: Any, tenant_id: str, month: Period
) -> tuple[Basis, dict[tuple[str, str], int]]:  # fmt: skip
    """What the month costs by, and what settlement has booked for it. Lifts the transaction's limit of time."""
    await connection.execute(f"SET LOCAL statement_timeout = {READING_S_MAX * 1000:.0f}")
    basis = await read_basis(connection, tenant_id, month, READING_S_MAX)
    return basis, await provisional(connection, tenant_id, month, READING_S_MAX)


async def _freeze(
    connection: Any, tenant_id: str, of: tuple[Parties, Issuer, Period], now_us: int, record: Record
) -> Invoice:
    parties, issuer, month = of
    draft = _header(tenant_id, parties, month, day_at(now_us, month.zone))
    basis, booked = await _read(connection, tenant_id, month)
    # The number comes last: until the end of the transaction the issuer's other closings wait for it.
    number = await next_number(connection, issuer, DocumentKind.INVOICE, draft.issued_on)
    header = replace(draft, state="closed", number=number, invoice_id=str(uuid_utils.uuid7()))
    invoice, uses = assemble(header, basis)
    entries = closing_entries(invoice, booked, uses)
    await store.insert(connection, issuer.issuer_id, invoice, entries, month.end - 1, now_us)
    await store.insert_rests(connection, invoice, uses)
    await store.tell(connection, tenant_id, record(invoice))
    return invoice


def _header(tenant_id: str, parties: Parties, month: Period, issued_on: date) -> Header:
    issuer = parties.issuer or Issuer("", Party(""))
    due = due_on(month.last_day, issued_on, issuer.due_months)
    return Header("", "", "draft", tenant_id, issuer.party, parties.recipient, issued_on, due)


def _given_back(invoice: Invoice, notes: list[Invoice], asked: Mapping[int, int] | None) -> tuple[Line, ...]:
    """The lines of a note, each with its yen. Raises `InvoiceRefused` for more than is left."""
    left = {line.number: line.yen for line in invoice.lines}
    for note in notes:
        for line in note.lines:
            left[line.number] -= line.yen
    wanted = {number: yen for number, yen in left.items() if yen} if asked is None else asked
    if not wanted:
        raise InvoiceRefused("nothing_left", "lines", f"everything of {invoice.number} has been given back")
    by_number = {line.number: line for line in invoice.lines}
    for number, yen in wanted.items():
        if number not in by_number:
            raise InvoiceRefused("line_not_found", "lines", f"{invoice.number} has no line {number}")
        if not 1 <= yen <= left[number]:
            raise InvoiceRefused("amount_invalid", "lines", f"line {number}: 1 to {left[number]} yen are left to give")
    return tuple(
        replace(
            by_number[number], micro_yen=yen * MICRO, carried_in_micro_yen=0, yen=yen, carried_out_micro_yen=0
        )
        for number, yen in sorted(wanted.items())
    )  # fmt: skip


async def _note(
    connection: Any, invoice: Invoice, issuer: Issuer, lines: tuple[Line, ...], reason: str, now_us: int
) -> Invoice:
    taxes = tax_totals(lines)
    subtotal, tax = sum(line.yen for line in lines), sum(entry.tax_yen for entry in taxes)
    issued_on = day_at(now_us, invoice.zone)
    number = await next_number(connection, issuer, DocumentKind.CREDIT_NOTE, issued_on)
    return replace(
        invoice, invoice_id=str(uuid_utils.uuid7()), number=number, kind=DocumentKind.CREDIT_NOTE, issued_on=issued_on,
        due_on=issued_on, lines=lines, taxes=taxes, subtotal_yen=subtotal, tax_yen=tax, total_yen=subtotal + tax,
        prepaid_yen=0, payable_yen=subtotal + tax, corrects=invoice.number, corrects_issued_on=invoice.issued_on,
        reason=reason.strip(), watermark=0,
    )  # fmt: skip


async def _one_at_a_time(connection: Any, tenant_id: str) -> None:
    """Closings and credit notes of a tenant wait for each other here; settlement does not wait for them."""
    await connection.fetchval("SELECT 1 FROM billing_account WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id)


def _no_issuer() -> InvoiceRefused:
    return InvoiceRefused(
        "issuer_missing", "issuer_id", "enter an issuer with its registration number, and which one invoices the tenant"
    )
