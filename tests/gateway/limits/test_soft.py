"""Soft limits: one event when a month's yen reach the threshold of the grant they were used under, and no refusal."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest_asyncio

from billing.journal import Journal
from billing.types import Usage
from gateway.limits.soft import handle
from tests.billing.rows import a_settlement, an_open_row
from tests.conftest import Stores
from tests.licences import a_licence

NOW = datetime.now(UTC)
THIS_MONTH, NEXT_MONTH = (f"{at:%Y%m}" for at in (NOW, NOW.replace(day=1) + timedelta(days=40)))
# Costs 1,000 yen at 480 yen per million output tokens and nothing else.
THOUSAND_YEN = Usage(0, 0, 1_000_000_000 // 480 + 1, 0)


class Month:
    """A tenant with a licence whose grants have thresholds, and a way to use it."""

    def __init__(self, stores: Stores, database: Any) -> None:
        self.dsn = stores.dsn
        self.database = database
        self.journal = Journal(stores.dsn)
        self.tenant_id = f"t-{uuid4().hex[:12]}"
        self.licence_id = f"lic-{self.tenant_id}"

    async def licensed(self, version: int, **soft: int | None) -> None:
        """A version of the licence: a threshold in yen per grant."""
        grants = [
            {"id": name, "models": ["m"], "actions": ["chat"], "quota": {} if yen is None else {"yen_month_soft": yen}}
            for name, yen in soft.items()
        ]
        document = a_licence(self.tenant_id, self.licence_id, grants, version=version)
        await self.database.execute(
            "INSERT INTO licence (licence_id, version, tenant_id, document) VALUES ($1, $2, $3, $4::jsonb)",
            self.licence_id, version, self.tenant_id, json.dumps(document),
        )  # fmt: skip

    async def used(self, *grants: str, version: int = 1, period: str = THIS_MONTH) -> list[Any]:
        """A thousand yen under each grant, settled; the outbox rows of it."""
        rows = []
        for grant in grants:
            row = an_open_row(
                self.tenant_id, rule_id=f"{self.licence_id}/{grant}", licence_id=self.licence_id,
                licence_version=version, period=period, request_id=_id_in(period), opened_at=_middle_of(period),
            )  # fmt: skip
            await self.journal.opens.put(row)
            settlement = a_settlement(row, THOUSAND_YEN, settled_at=_middle_of(period) + 2)
            assert await self.journal.settlements.put(settlement)
            rows.append({"kind": "usage", "tenant_id": self.tenant_id, "request_id": row.request_id, "payload": "{}"})
        return rows

    async def consume(self, rows: list[Any], *, undone: bool = False) -> None:
        """What the worker does with rows of the outbox, in a transaction of its own."""
        connection = await asyncpg.connect(self.dsn, server_settings={"role": "sekisho_app"})
        try:
            transaction = connection.transaction()
            await transaction.start()
            await handle(connection, rows)
            await (transaction.rollback() if undone else transaction.commit())
        finally:
            await connection.close()

    async def told(self) -> list[dict[str, Any]]:
        """The data of every event, oldest first."""
        rows = await self.database.fetch(
            "SELECT type, body FROM webhook_event WHERE tenant_id = $1 ORDER BY event_id", self.tenant_id
        )
        assert all(row["type"] == "limit.soft_reached" for row in rows)
        return [json.loads(row["body"])["data"] for row in rows]


def _id_in(period: str) -> str:
    """A request id of the middle of a month (UUIDv7: it begins with the time)."""
    return str(UUID(f"{_middle_of(period) // 1000:012x}7{uuid4().hex[:3]}8{uuid4().hex[:15]}"))


def _middle_of(period: str) -> int:
    """In microseconds since the epoch."""
    return int(datetime(int(period[:4]), int(period[4:]), 15, tzinfo=UTC).timestamp()) * 1_000_000


@pytest_asyncio.fixture
async def month(stores: Stores, database: Any) -> AsyncIterator[Month]:
    """A new tenant."""
    made = Month(stores, database)
    await database.execute(
        "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
        " VALUES ($1, $1, 1, 1, 1, 1)",
        made.tenant_id,
    )
    yield made
    await made.journal.close()


async def test_crossing_is_told_once_with_what_was_used(month: Month) -> None:
    await month.licensed(1, g1=2_500)
    for _ in range(2):
        await month.consume(await month.used("g1"))
        assert await month.told() == []
    await month.consume(await month.used("g1"))
    expected = {
        "tenant_id": month.tenant_id, "level": "licence", "rule": f"{month.licence_id}/g1",
        "licence": f"{month.licence_id}@1", "period": THIS_MONTH, "yen_month_soft": 2_500,
        "used_micro_yen": 3 * THOUSAND_YEN.completion * 480,
    }  # fmt: skip
    assert await month.told() == [expected]
    await month.consume(await month.used("g1", "g1"))
    assert await month.told() == [expected]


async def test_exactly_the_threshold_is_reached(month: Month) -> None:
    await month.licensed(1, exact=1_000, beyond=1_001)
    await month.consume(await month.used("exact", "beyond"))
    assert [event["rule"].rpartition("/")[2] for event in await month.told()] == ["exact"]


async def test_each_grant_month_and_threshold_is_told_by_itself(month: Month) -> None:
    await month.licensed(1, g1=1_000, g2=5_000, g3=None)
    await month.consume(await month.used("g1", "g2", "g3"))
    await month.consume(await month.used("g1", period=NEXT_MONTH))
    await month.licensed(2, g1=3_000)  # a new version raises the threshold in the middle of the month
    await month.consume(await month.used("g1", version=2))
    await month.consume(await month.used("g1", version=2))
    told = {
        (event["rule"].rpartition("/")[2], event["period"], event["yen_month_soft"]) for event in await month.told()
    }
    assert told == {("g1", THIS_MONTH, 1_000), ("g1", NEXT_MONTH, 1_000), ("g1", THIS_MONTH, 3_000)}


async def test_what_is_undone_is_told_when_it_is_done_again(month: Month) -> None:
    await month.licensed(1, g1=1_000)
    rows = await month.used("g1")
    await month.consume(rows, undone=True)
    assert await month.told() == []
    await month.consume(rows)
    await month.consume(rows)  # a second delivery of the same rows
    assert len(await month.told()) == 1


async def test_workers_that_see_the_crossing_at_once_tell_it_once(month: Month) -> None:
    await month.licensed(1, g1=1_000)
    batches = [await month.used("g1") for _ in range(6)]
    await asyncio.gather(*map(month.consume, batches))
    assert len(await month.told()) == 1


async def test_tenant_without_a_threshold_and_rows_of_nothing_are_nothing(month: Month) -> None:
    await month.licensed(1, g1=None)
    await month.consume(await month.used("g1"))
    await month.consume([{"kind": "usage", "tenant_id": month.tenant_id, "request_id": None, "payload": "{}"}])
    await month.consume([])
    assert await month.told() == []
