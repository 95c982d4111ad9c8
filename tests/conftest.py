"""Real stores for the tests of both rooms: one PostgreSQL and one Valkey per session, migrated, on unix sockets."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from gateway.limits.levels import Limits
from gateway.tenancy.snapshot import Snapshot, Tenant
from gateway.tenancy.store import Configuration
from loadtests.stores import Stores as Stores  # the tests' own name of it
from loadtests.stores import stores as running_stores

pytest_plugins = ["tests.vllm.engine"]


@pytest_asyncio.fixture(scope="session")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    """PostgreSQL with the schema of `head`, and Valkey."""
    async with running_stores(tmp_path_factory.mktemp("stores") / "data") as running:
        yield running


@pytest_asyncio.fixture
async def database(stores: Stores) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection with the application's rights."""
    connection = await asyncpg.connect(stores.dsn, server_settings={"role": "sekisho_app"})
    yield connection
    await connection.close()


async def read_snapshot(connection: Any) -> Snapshot:
    """The whole configuration, as a gateway that starts now reads it."""
    return await Configuration().read(connection)


def a_tenant(*, tokens: int = 10**9, micro_yen: int = 10**15, rpm: int = 10**6, concurrency: int = 4096) -> Tenant:
    """A tenant that no other test knows. Limits per month, per minute and at once."""
    return Tenant(f"t-{uuid4().hex[:12]}", "Asia/Tokyo", Limits(tokens, micro_yen, rpm, concurrency))
