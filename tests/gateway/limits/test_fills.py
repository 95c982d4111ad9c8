"""A tenant's month is read from the journal by its own rows, whoever else is in it, and keeps nobody else waiting."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from billing.link import COMMAND_S_MAX, Link, StoreUnavailable
from gateway.faults import Fault
from gateway.limits import fills as module
from gateway.limits import month, soft
from gateway.limits.fills import BY_ROWS, Fills
from gateway.limits.holds import Holds
from tests.billing.books import uuid7
from tests.conftest import Stores
from tests.gateway.limits.asking import Chain, reserve
from tests.gateway.limits.behind import turn

PERIOD = "202611"
MANY = 60_000

# Of five months: every hundredth row is one of `$1` small tenants', all others are a large one's.
_MANY = """
INSERT INTO journal (request_id, tenant_id, key_id, model, action, epoch, instance_id, rule_id, period, state, outcome,
  prompt_tokens, micro_yen, opened_at, settled_at, booked_at)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || substr(md5(n::text), 1, 20))::uuid,
  CASE n % 100 WHEN 0 THEN 'small-' || (n / 100 % $1) ELSE 'large' END, 'k', 'm', 'chat', 1, 'test', 'lic/g1',
  to_char(at AT TIME ZONE 'Asia/Tokyo', 'YYYYMM'), 'settled', 'completed', 1, 2, at, at, at
FROM (SELECT n, timestamptz '2026-09-01' + n * interval '200 seconds' AS at FROM generate_series(1, $2) n) many
"""

_ONE = """
INSERT INTO journal (request_id, tenant_id, key_id, model, action, epoch, instance_id, rule_id, period, state, outcome,
  prompt_tokens, micro_yen, held_tokens, opened_at, settled_at, booked_at)
SELECT $6::text::uuid, $1, 'k', 'm', 'chat', 1, 'test', 'lic/g1', '202611',
  CASE WHEN $4::timestamptz IS NULL THEN 'streaming' ELSE 'settled' END, CASE WHEN $4 IS NULL THEN NULL ELSE 'completed'
  END, $3::bigint, $3 * 2, 1000, $2, $4, $5
"""

_READ = "SELECT coalesce(sum(idx_tup_fetch + seq_tup_read), 0)::bigint FROM pg_stat_xact_user_tables WHERE relname ~ $1"


async def by_month(connection: Any, tenant_id: str) -> int:
    row = await connection.fetchrow(month._MONTH, tenant_id, PERIOD, [])
    return {prefix: tokens for prefix, tokens, _ in json.loads(row["used"])}.get("", 0)  # type: ignore[no-any-return]


async def by_book(connection: Any, tenant_id: str) -> int:
    generation = await connection.fetchval("SELECT generation FROM limits_mode")
    assert await connection.fetchval("SELECT limits_open($1, $2, $3)", generation, tenant_id, PERIOD)
    used = "SELECT coalesce(sum(used_tokens), 0)::bigint FROM limit_use WHERE tenant_id = $1 AND level = ''"
    return await connection.fetchval(used, tenant_id)  # type: ignore[no-any-return]


async def by_soft_limit(connection: Any, tenant_id: str) -> int:
    await connection.execute(soft._BY_ROWS)
    used: int = await connection.fetchval(soft._USED, tenant_id, PERIOD, "lic/g1")
    return used // 2


READINGS = pytest.mark.parametrize("reading", [by_month, by_book, by_soft_limit])
Reading = Callable[[Any, str], Awaitable[int]]


@pytest_asyncio.fixture
async def owner(stores: Stores) -> AsyncIterator[Any]:
    """In a transaction that is undone: nobody else's journal holds the rows. The book is in force."""
    connection = await asyncpg.connect(stores.dsn)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT journal_ensure_partitions('2026-09-01', 7)")
    await connection.execute("UPDATE limits_mode SET mode = 'book'")
    yield connection
    await transaction.rollback()
    await connection.close()


async def as_fills_do(connection: Any, reading: Reading) -> None:
    """The settings under which the product reads; a soft limit sets its own."""
    if reading is not by_soft_limit:
        for name, value in Link("", settings=BY_ROWS)._settings.items():
            await connection.execute(f"SET LOCAL {name} = '{value}'")


@READINGS
@pytest.mark.parametrize("small", [1, 20])
async def test_of_a_month_only_the_tenants_own_rows_are_read(owner: Any, reading: Reading, small: int) -> None:
    await owner.execute(_MANY.replace("$1", str(small)).replace("$2", str(MANY)))
    await owner.execute("ANALYZE journal")
    await as_fills_do(owner, reading)
    own = await owner.fetch("SELECT period FROM journal WHERE tenant_id = 'small-0'")
    running = await owner.fetchval("SELECT count(*) FROM journal WHERE settled_at IS NULL")  # other tests', and few
    for tenant_id, months in (("small-0", [row["period"] for row in own]), ("nobody", [])):
        before = await owner.fetchval(_READ, "^journal_2")
        assert await reading(owner, tenant_id) == months.count(PERIOD)
        read = await owner.fetchval(_READ, "^journal_2") - before
        mine = sum(month >= "202610" for month in months)  # once for the sums, once for the minute that runs
        assert read <= 2 * mine + running, (read, months)


@READINGS
async def test_row_counts_in_its_month_wherever_that_begins_and_whenever_it_is_booked(
    owner: Any, reading: Reading
) -> None:
    kiritimati, closed = datetime(2026, 10, 31, 10, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    baker = datetime(2026, 12, 1, 11, 59, tzinfo=UTC)
    for opened, tokens, settled, booked in (
        (kiritimati, 1, kiritimati, kiritimati), (baker, 10, baker, baker), (baker, 100, baker, closed),
        (baker, 1_000, closed, closed), (baker, 10_000, None, None),
    ):  # fmt: skip
        await owner.execute(_ONE, "t-edges", opened, tokens, settled, booked, id_of(opened))
    await as_fills_do(owner, reading)
    assert await reading(owner, "t-edges") == 1_111
    if reading is by_book:
        held = await owner.fetchrow("SELECT * FROM limit_hold WHERE tenant_id = 't-edges'")
        assert (held["tokens"], held["held_at"]) == (1_000, int(baker.timestamp()))


def id_of(opened_at: datetime) -> str:
    return str(uuid7(int(opened_at.timestamp()) * 1_000_000))


@asynccontextmanager
async def filling(stores: Stores) -> AsyncIterator[Fills]:
    fills = Fills(stores.dsn)
    yield fills
    await fills.close()


async def test_request_does_not_wait_for_a_long_month_whose_reading_goes_on(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S_MAX", 0.1)
    begun: list[str] = []
    go_on = asyncio.Event()

    async def read() -> None:
        begun.append("read")
        await go_on.wait()

    async with filling(stores) as fills:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await fills.once("a month", read)
        assert begun == ["read"]
        go_on.set()
        await fills.once("a month", read)
        await fills.once("a month", read)
        assert begun == ["read", "read"]  # the second one began after the first had ended


async def test_long_month_keeps_no_other_waiting_and_may_take_longer_than_other_statements(stores: Stores) -> None:
    async with filling(stores) as fills, asyncio.timeout(COMMAND_S_MAX + 20):
        long = asyncio.create_task(fills.fetch(f"SELECT pg_sleep({COMMAND_S_MAX + 0.3})"))
        async with asyncio.timeout(COMMAND_S_MAX - 1):
            for _ in range(10):
                await fills.fetch("SELECT 1")
        assert not long.done()
        await long


async def test_end_of_a_process_does_not_wait_for_a_month(stores: Stores) -> None:
    fills = Fills(stores.dsn)
    reading = asyncio.create_task(fills.once("a month", lambda: slept(fills)))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(3):
        await fills.close()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def slept(fills: Fills) -> None:
    await fills.fetch("SELECT pg_sleep(60)")


async def test_month_that_the_book_is_still_reading_holds_up_no_other_tenant(
    holds: Holds, stores: Stores, valkey: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S_MAX", 0.2)
    slow, other = Chain.of(), Chain.of()
    await turn([holds], "book", valkey)
    generation = (await valkey.book.fetch("SELECT generation FROM limits_mode"))[0]["generation"]
    reader = await asyncpg.connect(stores.dsn)
    transaction = reader.transaction()
    await transaction.start()
    await reader.execute("SELECT limits_open($1, $2, $3)", generation, slow.tenant_id, PERIOD)  # and goes on for long
    with pytest.raises(Fault) as caught:
        await reserve(holds, slow)
    assert (caught.value.code.name, caught.value.retry_after_s) == ("store_unavailable", 1)
    async with asyncio.timeout(1):
        await reserve(holds, other)
    await transaction.commit()
    await reader.close()
    await reserve(holds, slow)
    await turn([holds], "valkey", valkey)  # as the tests of other files expect it
