"""Settlement goes on while a month is closed: nothing is lost before the watermark, nothing is counted twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import uuid_utils

from billing.invoices import basis_store, service
from billing.invoices.refused import InvoiceRefused
from billing.invoices.service import close
from billing.journal import Journal
from billing.rating import rate
from billing.types import Usage
from tests.billing.books import Books, Request, until_it_waits, us, uuid7
from tests.billing.rows import a_settlement, an_open_row
from tests.conftest import Stores

END = us("2026-12-01T00:00+09:00")
ROWS, WRITERS = 600, 8
NOON = us("2026-11-10T12:00+09:00")
SEALED = "SELECT closed_until > '-infinity' FROM billing_account WHERE tenant_id = $1"


@pytest_asyncio.fixture
async def journal(stores: Stores) -> AsyncIterator[Journal]:
    journal = Journal(stores.dsn)
    yield journal
    await journal.close()


async def settle_one(journal: Journal, books: Books, card: Any, tokens: int) -> None:
    """A request whose clock says that the month still runs."""
    row = an_open_row(
        books.tenant_id, request_id=str(uuid_utils.uuid7()), model=card.model, rate_card_id=card.rate_card_id,
        opened_at=END - 9_000_000,
    )  # fmt: skip
    await journal.opens.put(row)
    usage = Usage(0, 0, tokens)
    settlement = a_settlement(row, usage, lines=rate(usage, card), settled_at=END - 1)
    assert await journal.settlements.put(settlement)


async def test_settlements_around_a_closing_are_counted_once(books: Books, database: Any, journal: Journal) -> None:
    card = await books.card()
    closing: list[asyncio.Task[Any]] = []

    async def settle_some(first: int) -> None:
        for number in range(first, ROWS, WRITERS):
            await settle_one(journal, books, card, 10**6 + number)
            if number == ROWS // 3:
                closing.append(asyncio.create_task(close(database, books.tenant_id, "2026-11", END)))

    await asyncio.gather(*(settle_some(first) for first in range(WRITERS)))
    first = await closing[0]
    second = await close(database, books.tenant_id, "2026-12", us("2027-01-01T00:00+09:00"))
    counted = [sum(line.quantity for line in invoice.lines) for invoice in (first, second)]
    assert sum(counted) == sum(10**6 + number for number in range(ROWS))
    assert min(counted) > 0
    booked = "SELECT sum(completion_tokens)::bigint FROM journal WHERE tenant_id = $1 AND booked_at < $2"
    end = await database.fetchval("SELECT from_micros($1)", END)
    assert await database.fetchval(booked, books.tenant_id, end) == counted[0]
    asked = sum(invoice.payable_yen for invoice in (first, second)) * 10**6
    assert await books.balance(f"receivable:{books.tenant_id}") == asked + await books.carried()


async def test_settlement_that_began_before_a_closing_is_in_its_month(
    books: Books, database: Any, journal: Journal, stores: Stores
) -> None:
    """The closing waits for a settlement that has read the watermark and is not committed yet: here it waits itself,
    for its row."""
    card = await books.card()
    await settle_one(journal, books, card, 0)  # so that its connection is known
    row = an_open_row(books.tenant_id, model=card.model, rate_card_id=card.rate_card_id, opened_at=END - 9_000_000)
    await journal.opens.put(row)
    other = await asyncpg.connect(stores.dsn)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT FROM journal WHERE request_id = $1::text::uuid FOR UPDATE", row.request_id)
    usage = Usage(0, 0, 1_000_000)
    early = journal.settlements.put(a_settlement(row, usage, lines=rate(usage, card), settled_at=END - 1))
    await until_it_waits(stores.dsn, journal._settle_link._connection.get_server_pid())
    closing = asyncio.create_task(close(database, books.tenant_id, "2026-11", END))
    await until_it_waits(stores.dsn, database.get_server_pid())
    assert not closing.done()
    await transaction.rollback()
    await other.close()
    assert await early
    assert (await closing).subtotal_yen == 480
    await settle_one(journal, books, card, 1_000_000)
    late = await database.fetchval(
        "SELECT count(*) FROM journal WHERE tenant_id = $1 AND booked_at = from_micros($2)", books.tenant_id, END
    )
    assert late == 1


@contextlib.asynccontextmanager
async def behind_a_slow_ledger(stores: Stores, owner: Any) -> AsyncIterator[Any]:
    """A connection with a second for each statement, as the admin plane's but shorter, and nobody reads the ledger
    until two seconds after it began to wait for it."""
    connection = await asyncpg.connect(
        stores.dsn, command_timeout=1, server_settings={"role": "sekisho_app", "statement_timeout": "1s"}
    )
    holding = owner.transaction()
    await holding.start()
    await owner.execute("LOCK TABLE ledger_entry IN ACCESS EXCLUSIVE MODE")

    async def let_go() -> None:
        await until_it_waits(stores.dsn, connection.get_server_pid())
        await asyncio.sleep(2)
        await holding.rollback()

    letting_go = asyncio.create_task(let_go())
    yield connection
    await letting_go
    await connection.close()


async def test_month_that_takes_longer_to_read_than_an_answer_may_is_closed(
    books: Books, owner: Any, stores: Stores
) -> None:
    await books.settle([Request(await books.card(), Usage(0, 0, 10**6), NOON)])
    async with behind_a_slow_ledger(stores, owner) as connection:
        assert (await close(connection, books.tenant_id, "2026-11", END)).subtotal_yen == 480


async def test_month_that_cannot_be_read_is_not_sealed(
    books: Books, owner: Any, database: Any, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "READING_S_MAX", 1.0)
    async with behind_a_slow_ledger(stores, owner) as connection:
        with pytest.raises((asyncpg.QueryCanceledError, TimeoutError)):
            await close(connection, books.tenant_id, "2026-11", END)
    assert not await database.fetchval(SEALED, books.tenant_id)


async def test_month_whose_books_differ_is_not_sealed(books: Books, owner: Any, database: Any) -> None:
    await books.settle([Request(await books.card(), Usage(0, 0, 10**6), NOON)])
    await owner.execute(
        "INSERT INTO journal (request_id, tenant_id, key_id, model, action, epoch, rate_card_id, instance_id, state,"
        " outcome, completion_tokens, opened_at, settled_at, booked_at) SELECT $2, tenant_id, key_id, model, action,"
        " epoch, rate_card_id, instance_id, state, outcome, 1, opened_at, settled_at, booked_at"
        " FROM journal WHERE tenant_id = $1",
        books.tenant_id, uuid7(NOON),
    )  # fmt: skip
    with pytest.raises(InvoiceRefused) as refused:
        await close(database, books.tenant_id, "2026-11", END)
    assert refused.value.code == "books_differ"
    assert not await database.fetchval(SEALED, books.tenant_id)


_YEARS = """
WITH made AS (
  INSERT INTO journal (request_id, tenant_id, key_id, model, action, epoch, rate_card_id, instance_id, state, outcome,
    completion_tokens, opened_at, settled_at, booked_at)
  SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || substr(md5(n::text), 1, 20))::uuid,
    CASE WHEN n % 2 = 0 THEN $1 ELSE 'other-' || n % 50 END, 'k', 'm', 'chat', 1, $2, 'test', 'settled', 'completed', 1,
    at, at, at
  FROM (SELECT n, timestamptz '2026-01-01' + n * interval '131 seconds' AS at FROM generate_series(1, 240000) n) many
  RETURNING request_id, tenant_id, model, booked_at
)
INSERT INTO ledger_entry (request_id, line, account, tenant_id, kind, quantity, unit_price, debit, credit, booked_at)
SELECT request_id, 1, side.account, tenant_id, 'output', 1, 480, side.debit, side.credit, booked_at
FROM made CROSS JOIN LATERAL (VALUES ('receivable:' || tenant_id, 480, 0), ('revenue:' || model, 0, 480))
  AS side(account, debit, credit)
"""


async def test_of_a_years_ledger_the_month_is_read(books: Books, owner: Any) -> None:
    card = await books.card()
    transaction = owner.transaction()
    await transaction.start()  # and undone: nobody else's book holds them
    await owner.execute("SELECT journal_ensure_partitions('2026-01-01', 13)")
    await owner.execute(_YEARS, books.tenant_id, card.rate_card_id)
    await owner.execute("ANALYZE journal, ledger_entry")
    month = [us(f"2026-{number}-01T00:00+09:00") for number in (11, 12)]
    text = f"EXPLAIN (ANALYZE, TIMING OFF) {basis_store._PROVISIONAL}"
    plan = "\n".join(row[0] for row in await owner.fetch(text, books.tenant_id, *month))
    await transaction.rollback()
    assert "ledger_entry_booked" in plan and "Seq Scan on ledger_entry" not in plan, plan
