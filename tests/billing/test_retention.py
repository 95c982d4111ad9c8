"""How long what is kept: by a table that knows the least the law allows; nothing vanishes in a shorter time."""

from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import uuid_utils

from billing import witnessed
from billing.journal import Journal
from billing.types import Usage
from tests.billing.rows import a_settlement, an_open_row
from tests.conftest import Stores

USAGE = Usage(prompt=30, cached=10, completion=7, reasoning=2)
RECORD = """
INSERT INTO witness_record (attempt_id, upstream_id, model, state, prompt_tokens, cached_tokens, image_tokens,
  audio_tokens, completion_tokens, reasoning_tokens, started_at, ended_at)
VALUES ($1, 'u', 'm', 'finished', 1, 0, 0, 0, 1, 0, now() - $2 * interval '1 day', now() - $2 * interval '1 day')
"""
PLATFORM = """
INSERT INTO platform_usage (attempt_id, upstream_id, model, reason, prompt_tokens, cached_tokens, image_tokens,
  audio_tokens, completion_tokens, reasoning_tokens, ended_at)
VALUES ($1, 'u', 'm', 'probe', 1, 0, 0, 0, 1, 0, now() - $2 * interval '1 day')
"""


@pytest_asyncio.fixture
async def owner(stores: Stores) -> Any:
    connection = await asyncpg.connect(stores.dsn)
    transaction = connection.transaction()
    await transaction.start()  # what is agreed here binds no other test
    yield connection
    await transaction.rollback()
    await connection.close()


async def test_retention_below_the_laws_least_is_refused(owner: Any) -> None:
    rows = await owner.fetch("SELECT what, kept_days, law_days, basis FROM retention")
    assert {row["what"]: row["law_days"] for row in rows} == {
        "journal": 2557, "platform_usage": 2557, "witness_record": 183,
    }  # fmt: skip
    assert all(row["basis"] for row in rows)
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute("INSERT INTO retention VALUES ('witness_record', '2026-01-01', 182, 183, 'Art. 19')")


async def test_newest_row_that_is_in_force_counts(owner: Any) -> None:
    days = "SELECT extract(day FROM now() - kept_since('witness_record'))::int"
    assert await owner.fetchval(days) == 400
    await owner.execute("INSERT INTO retention VALUES ('witness_record', '2999-01-01', 190, 183, 'later')")
    assert await owner.fetchval(days) == 400
    await owner.execute("INSERT INTO retention VALUES ('witness_record', '2025-01-01', 200, 183, 'now')")
    assert await owner.fetchval(days) == 200


async def test_records_are_forgotten_when_their_time_is_over_and_not_before(database: Any) -> None:
    name = uuid_utils.uuid7().hex
    for suffix, record_days, platform_days in (("old", 402, 3685), ("kept", 398, 3681)):
        await database.execute(RECORD, f"{name}-{suffix}", record_days)
        await database.execute(PLATFORM, f"{name}-{suffix}", platform_days)
    assert sum([await witnessed.forget(database, table) for table in witnessed.RECORD_TABLES]) >= 2
    for table in ("witness_record", "platform_usage"):
        left = await database.fetch(f"SELECT attempt_id FROM {table} WHERE attempt_id LIKE $1", f"{name}%")  # noqa: S608 # ours
        assert [row["attempt_id"] for row in left] == [f"{name}-kept"]


@pytest.mark.parametrize("change", ["DELETE FROM platform_usage", "UPDATE platform_usage SET prompt_tokens = 0"])
async def test_platforms_account_cannot_be_changed_within_its_time(owner: Any, change: str) -> None:
    await owner.execute(PLATFORM, "a-probe", 3681)
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await owner.execute(f"{change} WHERE attempt_id = 'a-probe'")


async def test_month_beyond_its_time_leaves_the_journal_whole_and_takes_no_replay(
    stores: Stores, database: Any
) -> None:
    owner = await asyncpg.connect(stores.dsn)
    journal = Journal(stores.dsn)
    try:
        for month in ("2013-05-01", "2017-05-01"):
            await owner.execute("SELECT journal_ensure_partitions($1::text::timestamptz, 1)", month)
        old = an_open_row("t-old", request_id="013e6a52-6400-7000-8000-000000000001")  # of 2013-05-03
        kept = an_open_row("t-old", request_id="015bc4d5-a400-7000-8000-000000000001")  # of 2017-05-02
        for row in (old, kept):
            await journal.opens.put(row)
        await journal.settlements.put(a_settlement(old, USAGE))
        await database.execute("SELECT journal_retire_partitions()")
        assert await owner.fetchval("SELECT count(*) FROM retired_journal_201305") == 1
        assert await owner.fetchval("SELECT count(*) FROM journal WHERE tenant_id = 't-old'") == 1
        with pytest.raises(asyncpg.CheckViolationError, match="no partition"):
            await journal.opens.put(old)
        assert not await journal.settlements.put(a_settlement(old, USAGE))
        assert await journal.settlements.put(a_settlement(kept, USAGE))
        entries = await owner.fetchval("SELECT count(*) FROM ledger_entry WHERE request_id = $1", old.request_id)
        assert entries == 6  # of the one settlement
    finally:
        await journal.close()
        await owner.execute("DROP TABLE IF EXISTS retired_journal_201305")
        await owner.execute("ALTER TABLE journal DETACH PARTITION journal_201705")
        await owner.execute("DROP TABLE journal_201705")
        await owner.close()
