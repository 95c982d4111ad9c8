"""Draft, closed, credited: what is closed never changes, and every number exists once, without gaps."""

import asyncio
import json
from dataclasses import replace
from datetime import date
from typing import Any

import asyncpg
import pytest

from billing.agreements import Agreement, Commitment, Credit
from billing.invoices.document import decode, digest, encode
from billing.invoices.parties import issuer_of, put_issuer, put_party
from billing.invoices.refused import InvoiceRefused
from billing.invoices.rerate import rerate
from billing.invoices.service import close, credit, find, load, preview
from billing.invoices.types import DocumentKind, Invoice
from billing.prices import Graduated, Step, Terms
from billing.prices_store import credits_of, end_agreement, put_agreement, put_credit
from billing.types import Usage
from tests.billing.books import ISSUER, Books, Request, until_it_waits, us
from tests.conftest import Stores

NOON = us("2026-11-10T12:00+09:00")
DECEMBER, JANUARY = us("2026-12-01T09:00+09:00"), us("2027-01-05T09:00+09:00")
GRADUATED = Terms(tiers={"output": Graduated((Step(1_000_000, 480), Step(None, 300)))})


async def used(books: Books, *tokens: int, at: int = NOON, terms: Terms = GRADUATED) -> None:
    """One request per number of output tokens, under a card of its own."""
    card = await books.card(terms=terms)
    await books.settle(Request(card, Usage(1_000, 0, count), at) for count in tokens)


async def refusal(awaitable: Any) -> str:
    with pytest.raises(InvoiceRefused) as refused:
        await awaitable
    assert refused.value.detail
    return refused.value.code


async def test_preview_is_what_closing_freezes_and_stores_nothing(books: Books, database: Any) -> None:
    await used(books, 700_000, 700_000)
    draft = await preview(database, books.tenant_id, "2026-11")
    assert (draft.state, draft.number, draft.invoice_id) == ("draft", "", "")
    assert await preview(database, books.tenant_id, "2026-11") == draft
    assert await find(database, books.tenant_id) == []
    closed = await close(database, books.tenant_id, "2026-11", DECEMBER)
    same = replace(
        draft, state="closed", number=closed.number, invoice_id=closed.invoice_id, watermark=closed.watermark
    )
    assert closed == same
    assert [(line.tier, line.quantity, line.yen) for line in closed.lines] == [
        ("", 2_000, 0), ("1-1000000", 1_000_000, 480), ("1000001-", 400_000, 120),
    ]  # fmt: skip
    assert (closed.issued_on, closed.due_on, closed.total_yen) == (date(2026, 12, 1), date(2026, 12, 31), 660)
    assert await preview(database, books.tenant_id, "2026-11") == closed
    assert await load(database, books.tenant_id, closed.number) == closed


async def test_receivable_is_what_documents_ask_for_and_the_fractions(books: Books, database: Any) -> None:
    await used(books, 700_001, 700_002)
    closed = await close(database, books.tenant_id, "2026-11", DECEMBER)
    carried = await books.carried()
    assert carried > 0
    assert await books.balance(f"receivable:{books.tenant_id}") == closed.payable_yen * 10**6 + carried
    assert -await books.balance("revenue:%") == closed.subtotal_yen * 10**6 + carried
    assert -await books.balance("tax:%") == closed.tax_yen * 10**6
    note = await credit(database, closed.number, "返金", {2: 100}, DECEMBER)
    left = closed.payable_yen - note.payable_yen
    assert await books.balance(f"receivable:{books.tenant_id}") == left * 10**6 + carried
    assert await books.balance("%") == 0


async def test_month_begins_with_the_fractions_of_the_last(books: Books, database: Any) -> None:
    card = await books.card()
    closings = {"2026-11": DECEMBER, "2026-12": JANUARY, "2027-01": us("2027-02-01T00:00+09:00")}
    for month in closings:
        await books.settle([Request(card, Usage(0, 0, 1_250), us(f"{month}-10T12:00+09:00"))])  # ¥0.6 each
    closed = [await close(database, books.tenant_id, month, now) for month, now in closings.items()]
    assert [(line.yen, line.carried_out_micro_yen) for invoice in closed for line in invoice.lines] == [
        (0, 600_000), (1, 200_000), (0, 800_000),
    ]  # fmt: skip
    assert [one.period_start for one in closed[1:]] == [one.period_end for one in closed[:-1]]
    assert await books.balance("revenue:%") == -(1 * 10**6 + await books.carried())
    assert all([(await rerate(database, invoice.number)).identical for invoice in closed])


async def test_what_cannot_be_closed_is_refused_by_its_reason(books: Books, database: Any) -> None:
    tenant = books.tenant_id
    await used(books, 5)
    await used(books, 5, at=us("2026-12-10T12:00+09:00"))
    assert await refusal(close(database, tenant, "2026-11", us("2026-11-30T23:59:59+09:00"))) == "period_not_over"
    assert await refusal(close(database, tenant, "2026-12", JANUARY)) == "period_out_of_order"
    assert await refusal(close(database, tenant, "2026-1", JANUARY)) == "period_invalid"
    assert await refusal(close(database, "nobody", "2026-11", JANUARY)) == "tenant_not_found"
    assert await database.fetchval(
        "SELECT closed_until = '-infinity' FROM billing_account WHERE tenant_id = $1", tenant
    )
    await close(database, tenant, "2026-11", us("2026-12-01T00:00+09:00"))
    assert await refusal(close(database, tenant, "2026-11", JANUARY)) == "period_closed"
    assert await refusal(close(database, tenant, "2027-01", us("2027-03-01T00:00+09:00"))) == "period_out_of_order"
    await close(database, tenant, "2026-12", JANUARY)


async def test_issuer_without_a_registration_number_closes_nothing(books: Books, owner: Any, database: Any) -> None:
    await used(books, 5)
    change = "UPDATE billing_issuer SET registration_number = $2 WHERE issuer_id = $1"
    await owner.execute(change, books.tenant_id, "T1234567890123")
    assert await refusal(close(database, books.tenant_id, "2026-11", DECEMBER)) == "registration_invalid"
    assert (await preview(database, books.tenant_id, "2026-11")).lines
    await owner.execute(change, books.tenant_id, ISSUER.registration_number)
    assert (await close(database, books.tenant_id, "2026-11", DECEMBER)).number.endswith("INV-2026-000001")


async def test_issuer_may_move_and_its_series_may_not(books: Books, database: Any) -> None:
    issuer = await issuer_of(database, books.tenant_id)
    assert issuer is not None
    moved = replace(issuer, party=replace(issuer.party, address="大阪府大阪市北区1-1"), due_months=2)
    await put_issuer(database, moved)
    assert await issuer_of(database, books.tenant_id) == moved
    for other in (replace(issuer, number_prefix="OTHER"), replace(issuer, year_begins=4)):
        assert await refusal(put_issuer(database, other)) == "series_fixed"
    bad = replace(issuer, party=replace(issuer.party, registration_number="T1234567890123"))
    assert await refusal(put_issuer(database, bad)) == "registration_invalid"


async def test_closed_documents_can_be_neither_changed_nor_deleted(books: Books, owner: Any, database: Any) -> None:
    await used(books, 1_234_567)
    closed = await close(database, books.tenant_id, "2026-11", DECEMBER)
    for statement in ("UPDATE invoice SET total_yen = 0 WHERE number = $1", "DELETE FROM invoice WHERE number = $1"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.execute(statement, closed.number)
        with pytest.raises(asyncpg.RestrictViolationError):
            await owner.execute(statement, closed.number)
    for table in ("invoice", "carried_fraction", "prepaid_use", "ledger_entry"):
        with pytest.raises((asyncpg.RestrictViolationError, asyncpg.FeatureNotSupportedError)):
            await owner.execute(f"TRUNCATE {table}")
        with pytest.raises(asyncpg.RestrictViolationError):
            await owner.execute(f"TRUNCATE {table} CASCADE")
    row = await database.fetchrow("SELECT document, sha256 FROM invoice WHERE number = $1", closed.number)
    assert row["document"] == encode(closed) and row["sha256"] == digest(encode(closed))


async def test_tax_log_has_a_record_of_every_document(books: Books, database: Any) -> None:
    await used(books, 1_234_567)
    closed = await close(database, books.tenant_id, "2026-11", DECEMBER)
    note = await credit(database, closed.number, "返金", None, DECEMBER)
    rows = await database.fetch(
        "SELECT record FROM audit_pending WHERE tenant_id = $1 AND log = 'tax' ORDER BY id", books.tenant_id
    )
    records = [json.loads(row["record"]) for row in rows]
    assert [(one["verb"], one["object"], one["sha256"]) for one in records] == [
        ("billing:invoice:close", closed.number, digest(encode(closed)).hex()),
        ("billing:credit_note:close", note.number, digest(encode(note)).hex()),
    ]


async def test_closing_that_fails_leaves_no_gap_and_goes_on_where_it_was(books: Books, database: Any) -> None:
    await used(books, 5)

    def failing(_: Invoice) -> str:
        raise RuntimeError("the process is told to stop")

    with pytest.raises(RuntimeError):
        await close(database, books.tenant_id, "2026-11", DECEMBER, failing)
    assert await find(database, books.tenant_id) == []
    assert await books.balance("tax:%") == 0
    assert (await close(database, books.tenant_id, "2026-11", DECEMBER)).number.endswith("-000001")


async def test_closing_that_is_killed_leaves_no_gap(books: Books, owner: Any, database: Any, stores: Stores) -> None:
    await used(books, 5)
    victim = await asyncpg.connect(stores.dsn, server_settings={"role": "sekisho_app"})
    holding = owner.transaction()
    await holding.start()
    await owner.execute("INSERT INTO document_counter VALUES ($1, 'invoice', 2026, 1)", books.tenant_id)
    closing = asyncio.create_task(close(victim, books.tenant_id, "2026-11", DECEMBER))
    await until_it_waits(stores.dsn, victim.get_server_pid())
    await owner.execute("SELECT pg_terminate_backend($1)", victim.get_server_pid())
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await closing
    await holding.rollback()
    sealed = "SELECT closed_until > '2026-11-30' FROM billing_account WHERE tenant_id = $1"
    assert await database.fetchval(sealed, books.tenant_id)
    assert (await close(database, books.tenant_id, "2026-11", DECEMBER)).number.endswith("-000001")


async def test_many_closings_of_one_issuer_number_without_gaps(books: Books, owner: Any, stores: Stores) -> None:
    others = [await Books(owner).open() for _ in range(8)]
    await owner.execute(
        "UPDATE billing_party SET issuer_id = $1 WHERE tenant_id = ANY($2)",
        books.tenant_id, [one.tenant_id for one in others],
    )  # fmt: skip

    async def one(tenant_id: str) -> str:
        connection = await asyncpg.connect(stores.dsn, server_settings={"role": "sekisho_app"})
        try:
            return (await close(connection, tenant_id, "2026-11", DECEMBER)).number
        finally:
            await connection.close()

    numbers = await asyncio.gather(*(one(other.tenant_id) for other in others))
    assert sorted(int(number.rsplit("-", 1)[1]) for number in numbers) == list(range(1, 9))


async def test_one_of_two_closings_of_a_month_at_once_is_refused(books: Books, stores: Stores) -> None:
    await used(books, 5)
    connections = [await asyncpg.connect(stores.dsn, server_settings={"role": "sekisho_app"}) for _ in range(2)]
    results = await asyncio.gather(
        *(close(connection, books.tenant_id, "2026-11", DECEMBER) for connection in connections), return_exceptions=True
    )
    for connection in connections:
        await connection.close()
    assert sorted(type(result).__name__ for result in results) == ["Invoice", "InvoiceRefused"]


async def test_credit_note_gives_back_a_part_and_never_more_than_is_left(books: Books, database: Any) -> None:
    await used(books, 1_000_000, 1_000_000, terms=Terms())
    closed = await close(database, books.tenant_id, "2026-11", DECEMBER)
    (_, output) = closed.lines
    assert output.yen == 960
    note = await credit(database, closed.number, " 障害 ", {output.number: 105}, JANUARY)
    assert (note.kind, note.corrects, note.corrects_issued_on) == (
        DocumentKind.CREDIT_NOTE, closed.number, closed.issued_on,
    )  # fmt: skip
    assert (note.subtotal_yen, note.tax_yen, note.total_yen, note.reason) == (105, 10, 115, "障害")
    assert note.number.endswith("CRN-2027-000001") and note.issued_on == date(2027, 1, 5)
    assert await refusal(credit(database, closed.number, "x", {output.number: 856}, JANUARY)) == "amount_invalid"
    assert await refusal(credit(database, closed.number, "x", {output.number: 0}, JANUARY)) == "amount_invalid"
    assert await refusal(credit(database, closed.number, "x", {99: 1}, JANUARY)) == "line_not_found"
    assert await refusal(credit(database, closed.number, " ", None, JANUARY)) == "reason_missing"
    assert await refusal(credit(database, "INV-0", "x", None, JANUARY)) == "invoice_not_found"
    assert await refusal(credit(database, note.number, "x", None, JANUARY)) == "not_an_invoice"
    rest = await credit(database, closed.number, "残り", None, JANUARY)
    assert (rest.subtotal_yen, rest.number.rsplit("-", 1)[1]) == (855, "000002")
    assert await refusal(credit(database, closed.number, "x", None, JANUARY)) == "nothing_left"
    assert note.tax_yen + rest.tax_yen <= closed.tax_yen
    assert await load(database, None, closed.number) == closed


async def test_credit_note_is_its_issuers_who_issued_the_invoice(books: Books, owner: Any, database: Any) -> None:
    await used(books, 5_000_000)
    closed = await close(database, books.tenant_id, "2026-11", DECEMBER)
    prefix = closed.number.partition("-")[0]
    other = await Books(owner).open(year_begins=4)
    await put_party(database, books.tenant_id, other.tenant_id, closed.recipient)
    numbers = [(await credit(database, closed.number, "返金", {2: 100}, JANUARY)).number for _ in range(2)]
    assert numbers == [f"{prefix}-CRN-2027-000001", f"{prefix}-CRN-2027-000002"]
    rows = await database.fetch("SELECT issuer_id, document FROM invoice WHERE corrects = $1", closed.number)
    assert {row["issuer_id"] for row in rows} == {books.tenant_id}
    assert all(decode(row["document"]).issuer == closed.issuer for row in rows)
    following = await close(database, books.tenant_id, "2026-12", JANUARY)
    assert not following.number.startswith(prefix)


async def test_two_credit_notes_at_once_never_give_back_more_than_there_is(
    books: Books, database: Any, stores: Stores
) -> None:
    await used(books, 1_000_000, terms=Terms())
    closed = await close(database, books.tenant_id, "2026-11", DECEMBER)
    connections = [await asyncpg.connect(stores.dsn, server_settings={"role": "sekisho_app"}) for _ in range(4)]
    results = await asyncio.gather(
        *(credit(one, closed.number, "返金", {closed.lines[-1].number: 300}, JANUARY) for one in connections),
        return_exceptions=True,
    )
    for connection in connections:
        await connection.close()
    assert sorted(type(result).__name__ for result in results) == ["Invoice", *["InvoiceRefused"] * 3]


async def test_month_rates_again_to_the_same_bytes_until_its_journal_is_touched(
    books: Books, owner: Any, database: Any
) -> None:
    await used(books, 700_001, 700_002)
    await used(books, 3_000_000, at=us("2026-12-10T12:00+09:00"))
    first = await close(database, books.tenant_id, "2026-11", DECEMBER)
    await close(database, books.tenant_id, "2026-12", JANUARY)
    await credit(database, first.number, "返金", {2: 100}, JANUARY)
    again = await rerate(database, first.number)
    assert again.identical and again.text == encode(first)
    await owner.execute("ALTER TABLE journal DISABLE TRIGGER journal_forward")
    try:
        await owner.execute(
            "UPDATE journal SET completion_tokens = completion_tokens + 1"
            " WHERE tenant_id = $1 AND completion_tokens = 700001",
            books.tenant_id,
        )
    finally:
        await owner.execute("ALTER TABLE journal ENABLE TRIGGER journal_forward")
    assert not (await rerate(database, first.number)).identical


async def test_nothing_is_agreed_in_a_month_that_is_closed(books: Books, database: Any) -> None:
    tenant = books.tenant_id
    begun = Agreement("a-" + tenant, tenant, us("2026-11-01T00:00+09:00"), None, Commitment(1_000))
    await put_agreement(database, begun)
    await put_credit(database, Credit("p-" + tenant, tenant, 300, NOON, us("2027-04-01T00:00+09:00"), 0))
    closed = await close(database, tenant, "2026-11", DECEMBER)
    assert (closed.subtotal_yen, closed.total_yen, closed.prepaid_yen, closed.payable_yen) == (1_000, 1_100, 300, 800)
    assert await books.balance(f"prepaid:{tenant}") == 0
    assert await books.balance(f"receivable:{tenant}") == 800 * 10**6
    assert [one.left_yen for one in await credits_of(database, tenant)] == [0]
    with pytest.raises(asyncpg.RestrictViolationError):
        await put_agreement(database, replace(begun, agreement_id="b-" + tenant))
    with pytest.raises(asyncpg.RestrictViolationError):
        await put_credit(database, Credit("q-" + tenant, tenant, 300, NOON, us("2027-04-01T00:00+09:00"), 0))
    with pytest.raises(asyncpg.RestrictViolationError):
        await end_agreement(database, tenant, begun.agreement_id, NOON)
    with pytest.raises(asyncpg.RestrictViolationError):
        await database.execute("UPDATE billing_agreement SET terms = '{}' WHERE tenant_id = $1", tenant)
    assert await end_agreement(database, tenant, begun.agreement_id, JANUARY)
    assert not await end_agreement(database, "another", begun.agreement_id, JANUARY)
    assert (await rerate(database, closed.number)).identical


async def test_price_of_a_card_never_changes(books: Books, database: Any) -> None:
    card = await books.card()
    with pytest.raises(asyncpg.RestrictViolationError):
        await database.execute("UPDATE rate_card SET output_price = 1 WHERE rate_card_id = $1", card.rate_card_id)
    await database.execute("UPDATE rate_card SET effective_to = now() WHERE rate_card_id = $1", card.rate_card_id)


async def test_documents_are_found_by_day_amount_and_counterparty(books: Books, owner: Any, database: Any) -> None:
    await used(books, 10_000_000)
    other = await Books(owner).open()
    await used(other, 1_000)
    mine = await close(database, books.tenant_id, "2026-11", DECEMBER)
    note = await credit(database, mine.number, "返金", {2: 7}, JANUARY)
    theirs = await close(database, other.tenant_id, "2026-11", DECEMBER)

    async def numbers(tenant_id: str | None = books.tenant_id, **wanted: Any) -> list[str]:
        found = {invoice.number for invoice in await find(database, tenant_id, **wanted)}
        return [one.number for one in (mine, note, theirs) if one.number in found]

    assert await numbers() == [mine.number, note.number]
    assert await numbers(None) == [mine.number, note.number, theirs.number]
    assert await numbers(issued_from=date(2026, 12, 2)) == [note.number]
    assert await numbers(issued_from=date(2026, 12, 1), issued_to=date(2026, 12, 1)) == [mine.number]
    assert await numbers(min_yen=mine.total_yen, max_yen=mine.total_yen) == [mine.number]
    assert await numbers(max_yen=mine.total_yen - 1) == [note.number]
    # Full width or half, capitals or not: people type what their keyboard gives.
    assert await numbers(None, counterparty=f"abc {books.tenant_id}") == [mine.number, note.number]
    assert await numbers(None, counterparty="ａｂｃ", min_yen=mine.total_yen, issued_to=date(2026, 12, 1)) == [
        mine.number
    ]
    assert await numbers(counterparty="100%") == []
    assert await numbers(period="2026-10") == []
    assert await numbers(number=note.number) == [note.number]
    assert await load(database, other.tenant_id, mine.number) is None


async def test_zone_that_changes_leaves_no_gap_between_months(books: Books, owner: Any, database: Any) -> None:
    card = await books.card()
    edge = us("2026-12-01T00:00+09:00")
    await books.settle(Request(card, Usage(0, 0, 10**6), NOON, booked_at=edge + offset) for offset in (-1, 0))
    first = await close(database, books.tenant_id, "2026-11", DECEMBER)
    await owner.execute("UPDATE tenant SET zone = 'UTC' WHERE tenant_id = $1", books.tenant_id)
    second = await close(database, books.tenant_id, "2026-12", JANUARY)
    assert [one.subtotal_yen for one in (first, second)] == [480, 480]
    assert second.period_start == first.period_end == edge
    assert (await rerate(database, first.number)).identical
