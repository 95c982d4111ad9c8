"""The outbox: consumed with its effect or not at all, by any number of workers, and a bad row stops no other."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from billing.outbox import Outbox
from tests.conftest import Stores


async def put(database: Any, kind: str, count: int) -> None:
    await database.executemany(
        "INSERT INTO outbox (kind, tenant_id, payload) VALUES ($1, $2, $3::jsonb)",
        [(kind, f"t-{number}", "{}") for number in range(count)],
    )


async def left(database: Any, kind: str) -> int:
    count: int = await database.fetchval("SELECT count(*) FROM outbox WHERE kind = $1", kind)
    return count


@pytest.fixture
def kind() -> str:
    return f"kind-{uuid4().hex[:8]}"


async def test_each_row_is_handled_once_by_three_workers(stores: Stores, database: Any, kind: str) -> None:
    await put(database, kind, 1_300)
    seen: list[int] = []

    async def handle(_connection: Any, rows: Sequence[Any]) -> None:
        await asyncio.sleep(0.01)
        seen.extend(row["id"] for row in rows)

    workers = [Outbox(stores.dsn, {kind: handle}) for _ in range(3)]
    while sum(await asyncio.gather(*(worker.consume() for worker in workers))):
        pass
    assert (len(seen), len(set(seen)), await left(database, kind)) == (1_300, 1_300, 0)
    await asyncio.gather(*(worker.close() for worker in workers))


async def test_effect_and_deletion_stand_or_fall_together(stores: Stores, database: Any, kind: str) -> None:
    await put(database, kind, 3)

    async def handle(connection: Any, rows: Sequence[Any]) -> None:
        await connection.execute("INSERT INTO outbox (kind, tenant_id) VALUES ($1, 'effect')", f"{kind}-effect")
        raise ConnectionResetError

    outbox = Outbox(stores.dsn, {kind: handle})
    with pytest.raises(ConnectionResetError):
        await outbox.consume()
    assert (await left(database, kind), await left(database, f"{kind}-effect")) == (3, 0)
    await outbox.close()


async def test_row_that_cannot_be_handled_stays_and_stops_no_other(stores: Stores, database: Any, kind: str) -> None:
    await put(database, kind, 7)
    seen: list[str] = []

    async def handle(_connection: Any, rows: Sequence[Any]) -> None:
        if any(row["tenant_id"] == "t-2" for row in rows):
            raise ValueError("t-2")
        seen.extend(row["tenant_id"] for row in rows)

    outbox = Outbox(stores.dsn, {kind: handle})
    assert await outbox.consume() == 6
    assert await outbox.consume() == 0
    assert sorted(seen) == ["t-0", "t-1", "t-3", "t-4", "t-5", "t-6"]
    assert await left(database, kind) == 1
    await outbox.close()


async def test_rows_that_nobody_handles_stay(stores: Stores, database: Any, kind: str) -> None:
    await put(database, kind, 2)
    outbox = Outbox(stores.dsn, {})
    assert await outbox.consume() == 0
    assert await left(database, kind) == 2
    await outbox.close()
