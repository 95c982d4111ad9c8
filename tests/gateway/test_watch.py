"""The snapshot is fresh or nothing is decided, and a clock behind the book's decides nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from gateway.clock import Clock, now_us
from gateway.faults import Fault
from gateway.heartbeat import Heartbeat
from gateway.tenancy.push import ConfigPush
from gateway.tenancy.snapshot import Snapshot
from gateway.tenancy.watch import STALE_S_MAX, SnapshotWatch
from tests.conftest import Stores, a_tenant
from tests.e2e.stack import until
from tests.gateway.test_snapshot import _TENANT

TEN_S_US = 10_000_000


@contextlib.asynccontextmanager
async def watching(stores: Stores, clock: Clock, seen: list[Snapshot] | None = None) -> AsyncIterator[SnapshotWatch]:
    watch = SnapshotWatch(stores.dsn, clock, (lambda _: None) if seen is None else seen.append)
    try:
        yield watch
    finally:
        await watch.close()


@pytest_asyncio.fixture
async def mark(stores: Stores) -> int:
    """The highest stored time, moved by a heartbeat just now."""
    heartbeat = Heartbeat(stores.dsn, "gateway-clock-test", "gateway")
    await heartbeat.beat()
    await heartbeat.retire()
    return now_us()


def refused(watch: SnapshotWatch) -> str:
    with pytest.raises(Fault) as caught:
        watch.current()
    return caught.value.code.name


async def test_nothing_is_decided_before_the_first_reading(stores: Stores) -> None:
    async with watching(stores, Clock()) as watch:
        assert refused(watch) == "store_unavailable" and not watch.fresh


async def test_clock_that_was_set_back_decides_nothing(stores: Stores, mark: int) -> None:
    clock = Clock(lambda: now_us() - TEN_S_US)
    async with watching(stores, clock) as watch:
        await watch.poll()
        assert watch.fresh and clock.behind
        assert refused(watch) == "clock_behind"


async def test_clock_a_little_behind_decides_at_the_highest_stored_time(
    stores: Stores, database: Any, mark: int
) -> None:
    stored = await database.fetchval("SELECT (extract(epoch FROM highest_at) * 1000000)::bigint FROM clock_mark")
    clock = Clock(lambda: stored - 1_500_000)
    async with watching(stores, clock) as watch:
        await watch.poll()
        assert watch.current().epoch > 0 and not clock.behind
        assert clock.now() >= stored


async def test_mark_moves_back_for_nobody_but_the_owner(stores: Stores, database: Any, mark: int) -> None:
    ahead = "SELECT highest_at > now() + interval '59 minutes' FROM clock_mark"
    await database.execute("UPDATE clock_mark SET highest_at = now() + interval '1 hour'")
    owner = await asyncpg.connect(stores.dsn)
    try:
        heartbeat = Heartbeat(stores.dsn, "gateway-clock-test", "gateway")
        await heartbeat.beat()
        await heartbeat.retire()
        with pytest.raises(asyncpg.RestrictViolationError):
            await database.execute("UPDATE clock_mark SET highest_at = now()")
        assert await database.fetchval(ahead)
    finally:
        await owner.execute("UPDATE clock_mark SET highest_at = now()")
        await owner.close()
    assert not await database.fetchval(ahead)


@contextlib.asynccontextmanager
async def running(part: SnapshotWatch | ConfigPush) -> AsyncIterator[None]:
    task = asyncio.create_task(part.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_running_watch_reviews_with_every_change(stores: Stores, database: Any) -> None:
    seen: list[Snapshot] = []
    tenant = a_tenant().tenant_id

    async def knows() -> bool | None:
        return (bool(seen) and tenant in seen[-1].tenants) or None

    async with watching(stores, Clock(), seen) as watch, running(watch):
        await database.execute(_TENANT, tenant)
        await until(knows, STALE_S_MAX, "the change was not reviewed")
    assert seen[-1].tenants[tenant].limits.rpm == 1


async def test_commit_of_a_change_is_told_to_those_who_listen(stores: Stores, database: Any) -> None:
    push = ConfigPush(stores.dsn)

    async def told() -> bool | None:
        await database.execute(_TENANT, a_tenant().tenant_id)
        return push.changed.is_set() or None

    async with running(push):
        await until(told, STALE_S_MAX, "nobody was told")
