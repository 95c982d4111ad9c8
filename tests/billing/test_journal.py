"""The journal on a real PostgreSQL: exactly once, forward only, double entry."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from billing.journal import Journal, Mark
from billing.types import OpenRow, Usage
from tests.billing.rows import NOW, a_refusal, a_settlement, an_open_row
from tests.conftest import Stores, a_tenant

USAGE = Usage(prompt=30, cached=10, completion=7, reasoning=2)


@pytest_asyncio.fixture
async def journal(stores: Stores) -> AsyncIterator[Journal]:
    journal = Journal(stores.dsn)
    yield journal
    await journal.close()


async def row_of(database: Any, row: OpenRow) -> dict[str, Any]:
    found = await database.fetchrow("SELECT * FROM journal WHERE request_id = $1::text::uuid", row.request_id)
    return dict(found)


async def test_settlement_books_counts_money_and_audit_in_one_step(journal: Journal, database: Any) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    await journal.settlements.put(a_settlement(row, USAGE))
    found = await row_of(database, row)
    assert (found["state"], found["prompt_tokens"], found["cached_tokens"]) == ("settled", 30, 10)
    assert (found["completion_tokens"], found["reasoning_tokens"]) == (7, 2)
    assert found["micro_yen"] == 20 * 120 + 10 * 60 + 7 * 480
    entries = await database.fetch("SELECT * FROM ledger_entry WHERE request_id = $1", found["request_id"])
    assert sum(entry["debit"] for entry in entries) == sum(entry["credit"] for entry in entries) == found["micro_yen"]
    assert {entry["account"] for entry in entries} == {f"receivable:{row.tenant_id}", "revenue:model-1"}
    assert await database.fetchval("SELECT count(*) FROM audit_pending WHERE request_id = $1", found["request_id"]) == 1


async def test_settlement_delivered_twice_books_once(journal: Journal, database: Any) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    first = a_settlement(row, USAGE)
    await asyncio.gather(journal.settlements.put(first), journal.settlements.put(a_settlement(row, Usage(1, 0, 1, 0))))
    await journal.settlements.put(first)
    found = await row_of(database, row)
    assert found["prompt_tokens"] == 30
    lines = await database.fetchval("SELECT count(*) FROM ledger_entry WHERE request_id = $1", found["request_id"])
    assert lines == 6
    assert await database.fetchval("SELECT count(*) FROM audit_pending WHERE request_id = $1", found["request_id"]) == 1


async def test_settlement_without_its_row_books_nothing(journal: Journal, database: Any) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.settlements.put(a_settlement(row, USAGE))
    assert await database.fetchval("SELECT count(*) FROM ledger_entry WHERE tenant_id = $1", row.tenant_id) == 0


async def test_settlement_for_another_tenant_books_nothing(journal: Journal, database: Any) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    await journal.settlements.put(a_settlement(row, USAGE, tenant_id=a_tenant().tenant_id))
    assert (await row_of(database, row))["state"] == "open"


async def test_settled_row_cannot_be_changed_or_deleted(journal: Journal, stores: Stores, database: Any) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    await journal.settlements.put(a_settlement(row, USAGE))
    with pytest.raises(asyncpg.RestrictViolationError, match="frozen"):
        await database.execute("UPDATE journal SET micro_yen = 0 WHERE tenant_id = $1", row.tenant_id)
    owner = await asyncpg.connect(stores.dsn)
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await owner.execute("DELETE FROM journal WHERE tenant_id = $1", row.tenant_id)
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await owner.execute("UPDATE ledger_entry SET debit = 0 WHERE tenant_id = $1", row.tenant_id)
    await owner.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await database.execute("DELETE FROM ledger_entry WHERE tenant_id = $1", row.tenant_id)


async def test_row_never_goes_backward(journal: Journal, database: Any) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    await journal.marks.put(Mark(row.request_id, 1, True, Usage(), NOW))
    with pytest.raises(asyncpg.RestrictViolationError, match="cannot go"):
        await database.execute("UPDATE journal SET state = 'open' WHERE tenant_id = $1", row.tenant_id)


async def test_marks_keep_the_latest_usage_and_settlement_ends_them(journal: Journal, database: Any) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    await journal.marks.put(Mark(row.request_id, 2, True, Usage(), NOW))
    for tokens in (3, 9):
        await journal.marks.put(Mark(row.request_id, 2, False, Usage(5, 0, tokens, 0), NOW))
    found = await row_of(database, row)
    assert (found["state"], found["attempt"]) == ("streaming", 2)
    progress = "SELECT completion_tokens FROM journal_progress WHERE request_id = $1"
    assert await database.fetchval(progress, found["request_id"]) == 9
    await journal.settlements.put(a_settlement(row, USAGE))
    assert await database.fetchval(progress, found["request_id"]) is None


async def test_one_bad_row_does_not_take_its_neighbours_down(journal: Journal, database: Any) -> None:
    tenant_id = a_tenant().tenant_id
    good = [an_open_row(tenant_id) for _ in range(5)]
    bad = an_open_row(tenant_id, request_id="01234567-89ab-7def-8123-456789abcdef")  # a time without a partition
    rows = [*good[:3], bad, *good[3:]]
    results = await asyncio.gather(*(journal.opens.put(row) for row in rows), return_exceptions=True)
    assert [isinstance(result, asyncpg.PostgresError) for result in results] == [row is bad for row in rows]
    assert await database.fetchval("SELECT count(*) FROM journal WHERE tenant_id = $1", tenant_id) == 5


async def test_thousand_concurrent_rows_are_stored_once_each_in_few_batches(journal: Journal, database: Any) -> None:
    tenant_id = a_tenant().tenant_id
    rows = [an_open_row(tenant_id) for _ in range(1_000)]
    await asyncio.gather(*(journal.opens.put(row) for row in rows))
    await asyncio.gather(*(journal.settlements.put(a_settlement(row, USAGE)) for row in rows))
    total = await database.fetchrow(
        "SELECT count(*) AS n, sum(micro_yen)::bigint AS micro_yen FROM journal WHERE tenant_id = $1"
        " AND state = 'settled'",
        tenant_id,
    )
    assert (total["n"], total["micro_yen"]) == (1_000, 1_000 * (20 * 120 + 10 * 60 + 7 * 480))
    sides = "SELECT sum(debit)::bigint, sum(credit)::bigint FROM ledger_entry WHERE tenant_id = $1"
    assert set(await database.fetchrow(sides, tenant_id)) == {total["micro_yen"]}


async def test_voided_request_has_one_row_and_one_audit_record_whatever_comes_later(
    journal: Journal, database: Any
) -> None:
    row = an_open_row(a_tenant().tenant_id)
    assert await journal.voids.put(a_refusal(row))
    await journal.opens.put(row)
    await journal.refusals.put(a_refusal(row))
    assert not await journal.voids.put(a_refusal(row))
    assert not await journal.settlements.put(a_settlement(row, USAGE))
    assert (await row_of(database, row))["state"] == "voided"
    audits = "SELECT count(*) FROM audit_pending WHERE tenant_id = $1"
    assert await database.fetchval(audits, row.tenant_id) == 1


async def test_request_with_a_row_is_not_voided(journal: Journal, database: Any) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    assert not await journal.voids.put(a_refusal(row))
    assert (await row_of(database, row))["state"] == "open"
