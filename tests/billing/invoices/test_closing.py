"""Settlement goes on while a month is closed: nothing is lost before the watermark, nothing is counted twice."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest_asyncio
import uuid_utils

from billing.invoices.service import close
from billing.journal import Journal
from billing.rating import rate
from billing.types import Usage
from tests.billing.books import Books, until_it_waits, us
from tests.billing.rows import a_settlement, an_open_row
from tests.conftest import Stores

END = us("2026-12-01T00:00+09:00")
ROWS, WRITERS = 600, 8


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
