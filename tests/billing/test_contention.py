"""Real deadlocks and serialization failures: what PostgreSQL gives up for another's sake is stored all the same."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from billing.journal import Journal, Mark
from billing.link import GivenUp, Link, StoreUnavailable
from billing.types import OpenRow, Usage
from tests.billing.rows import NOW, a_refusal, a_settlement, an_open_row
from tests.conftest import Stores, a_tenant

USAGE = Usage(prompt=30, cached=10, completion=7, reasoning=2)
PRICE = 20 * 120 + 10 * 60 + 7 * 480
WAIT_S_MAX = 10.0
POLL_S = 0.01
_LOCK = "SELECT FROM journal WHERE request_id = $1::text::uuid FOR UPDATE"
_CLAIM = """
INSERT INTO journal (request_id, tenant_id, key_id, model, action, epoch, instance_id, state, opened_at)
VALUES ($1::text::uuid, 'other', '', '', '', 1, 'other', 'open', now())
"""
_BLOCKED = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sekisho' AND $1 = ANY (pg_blocking_pids(pid))
"""


@contextlib.asynccontextmanager
async def another(stores: Stores) -> AsyncIterator[Any]:
    """A session in a transaction, of which a deadlock never makes the victim: ours looks for one first."""
    connection = await asyncpg.connect(stores.dsn, server_settings={"deadlock_timeout": "60s"})
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


async def blocked_by(stores: Stores, connection: Any) -> None:
    """Returns once a statement of ours waits for a lock of `connection`."""
    looking = await asyncpg.connect(stores.dsn)
    try:
        for _ in range(round(WAIT_S_MAX / POLL_S)):
            if await looking.fetchval(_BLOCKED, connection.get_server_pid()):
                return
            await asyncio.sleep(POLL_S)
        raise AssertionError("nothing waits for a lock")
    finally:
        await looking.close()


@dataclass(frozen=True)
class Case:
    """A writer of the journal: what it needs beforehand, how another session takes the lock of its row, what it
    writes."""

    name: str
    opened: bool
    lock: str
    put: Callable[[Journal, OpenRow], "asyncio.Future[bool]"]

    def __str__(self) -> str:
        return self.name


CASES = (
    Case("opens", False, _CLAIM, lambda journal, row: journal.opens.put(row)),
    Case("marks", True, _LOCK, lambda journal, row: journal.marks.put(Mark(row.request_id, 1, True, USAGE, NOW))),
    Case("settlements", True, _LOCK, lambda journal, row: journal.settlements.put(a_settlement(row, USAGE))),
    Case("refusals", False, _CLAIM, lambda journal, row: journal.refusals.put(a_refusal(row))),
    Case("voids", False, _CLAIM, lambda journal, row: journal.voids.put(a_refusal(row))),
)
STATES = {"opens": "open", "marks": "streaming", "settlements": "settled", "refusals": "voided", "voids": "voided"}


async def stored(database: Any, case: Case, rows: Sequence[OpenRow]) -> None:
    """Each of `rows` is there once, with everything that belongs to it."""
    found = await database.fetch(
        "SELECT state, micro_yen FROM journal WHERE tenant_id = $1 ORDER BY request_id", rows[0].tenant_id
    )
    price = PRICE if case.name == "settlements" else 0
    assert [(row["state"], row["micro_yen"]) for row in found] == [(STATES[case.name], price)] * len(rows)
    booked = await database.fetchval(
        "SELECT coalesce(sum(debit), 0)::bigint FROM ledger_entry WHERE tenant_id = $1", rows[0].tenant_id
    )
    assert booked == price * len(rows)
    audits = await database.fetchval("SELECT count(*) FROM audit_pending WHERE tenant_id = $1", rows[0].tenant_id)
    assert audits == (len(rows) if case.name in ("settlements", "refusals", "voids") else 0)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_deadlock_in_a_batch_loses_no_row(
    stores: Stores, database: Any, caplog: pytest.LogCaptureFixture, case: Case
) -> None:
    tenant_id = a_tenant().tenant_id
    rows = [an_open_row(tenant_id) for _ in range(5)]
    async with journal_of(stores.dsn) as journal:
        if case.opened:
            await asyncio.gather(*(journal.opens.put(row) for row in rows))
        async with another(stores) as other:
            await other.execute(case.lock, rows[-1].request_id)
            written = [case.put(journal, row) for row in rows]
            await blocked_by(stores, other)
            # It holds the first row and waits for the last one; now the other session does the reverse.
            with contextlib.suppress(asyncpg.UniqueViolationError):  # ours may already have come again, and first
                await asyncio.wait_for(other.execute(case.lock, rows[0].request_id), WAIT_S_MAX)
        assert await asyncio.wait_for(asyncio.gather(*written), WAIT_S_MAX) == [True] * len(rows)
    assert [record.message for record in caplog.records if "DeadlockDetected" in record.message]
    await stored(database, case, rows)


@pytest.mark.parametrize("case", [case for case in CASES if case.opened], ids=str)
async def test_serialization_failure_in_a_batch_loses_no_row(
    stores: Stores, database: Any, caplog: pytest.LogCaptureFixture, case: Case
) -> None:
    tenant_id = a_tenant().tenant_id
    rows = [an_open_row(tenant_id) for _ in range(5)]
    async with journal_of(f"{stores.dsn}&default_transaction_isolation=repeatable%20read") as journal:
        await asyncio.gather(*(journal.opens.put(row) for row in rows))
        changing = await asyncpg.connect(stores.dsn)
        async with changing.transaction():
            await changing.execute(
                "UPDATE journal SET held_tokens = 1 WHERE request_id = $1::text::uuid", rows[2].request_id
            )
            written = [case.put(journal, row) for row in rows]
            await blocked_by(stores, changing)
        await changing.close()
        assert await asyncio.wait_for(asyncio.gather(*written), WAIT_S_MAX) == [True] * len(rows)
    assert [record.message for record in caplog.records if "SerializationError" in record.message]
    await stored(database, case, rows)


@contextlib.asynccontextmanager
async def journal_of(dsn: str) -> AsyncIterator[Journal]:
    """A journal that is closed at the end."""
    journal = Journal(dsn)
    try:
        yield journal
    finally:
        await journal.close()


async def test_row_that_never_gets_its_lock_fails_as_a_store_that_is_away_and_its_neighbours_pass(
    stores: Stores, database: Any
) -> None:
    tenant_id = a_tenant().tenant_id
    rows = [an_open_row(tenant_id) for _ in range(3)]
    async with journal_of(f"{stores.dsn}&lock_timeout=50") as journal:
        await asyncio.gather(*(journal.opens.put(row) for row in rows))
        async with another(stores) as other:
            await other.execute(_LOCK, rows[1].request_id)
            results = await asyncio.wait_for(
                asyncio.gather(
                    *(journal.settlements.put(a_settlement(row, USAGE)) for row in rows), return_exceptions=True
                ),
                WAIT_S_MAX,
            )
        assert [type(result) for result in results] == [bool, GivenUp, bool]
        assert await journal.settlements.put(a_settlement(rows[1], USAGE))
    await stored(database, CASES[2], rows)


@pytest.mark.parametrize(
    ("ended", "raised"),
    [("pg_terminate_backend", StoreUnavailable), ("pg_cancel_backend", GivenUp)],
)
async def test_ended_and_cancelled_statements_are_told_from_refused_ones(
    stores: Stores, ended: str, raised: type[Exception]
) -> None:
    link = Link(stores.dsn)
    pid = (await link.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"]
    ender = await asyncpg.connect(stores.dsn)
    try:
        waiting: Awaitable[Any] = asyncio.create_task(link.fetch("SELECT pg_sleep(20)"))
        await asyncio.sleep(0.1)
        await ender.execute(f"SELECT {ended}($1)", pid)
        with pytest.raises(raised) as caught:
            await waiting
        assert type(caught.value) is raised
        assert (await link.fetch("SELECT 1 AS one"))[0]["one"] == 1  # it comes back by itself
        with pytest.raises(asyncpg.UndefinedTableError):
            await link.fetch("SELECT FROM no_such_table")
    finally:
        await ender.close()
        await link.close()


async def test_database_that_lets_nobody_in_is_away_and_refuses_no_row(stores: Stores) -> None:
    link = Link(stores.dsn.replace("/sekisho?", "/no_such_database?"))
    with pytest.raises(StoreUnavailable):
        await link.fetch("SELECT 1")
    await link.close()


class Confused:
    """A connection whose protocol has lost its way: what asyncpg's own looks like after its session was killed."""

    ended = False

    def is_closed(self) -> bool:
        return False

    async def fetch(self, *_: object) -> list[Any]:
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    def terminate(self) -> None:
        self.ended = True


async def test_connection_that_lost_its_way_is_dropped_and_the_next_one_works(stores: Stores) -> None:
    link, confused = Link(stores.dsn), Confused()
    link._connection = confused
    with pytest.raises(StoreUnavailable):
        await link.fetch("SELECT 1")
    assert confused.ended
    assert await link.fetch("SELECT 1")
    await link.close()
