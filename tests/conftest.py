"""Real stores for the tests of both rooms: one PostgreSQL and one Valkey per session, migrated, on unix sockets."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from gateway.limits.levels import Limits
from gateway.migrations.run import migrate
from gateway.tenancy.snapshot import Snapshot, Tenant
from gateway.tenancy.store import Configuration
from gateway.up.folder import DataFolder
from gateway.up.processes import Child
from gateway.up.stores import PostgreSQL, Valkey

pytest_plugins = ["tests.vllm.engine"]


@dataclass(frozen=True, slots=True)
class Stores:
    """How to reach the session's stores."""

    dsn: str
    valkey_url: str


@pytest_asyncio.fixture(scope="session")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    """PostgreSQL with the schema of `head`, and Valkey."""
    data = DataFolder.at(tmp_path_factory.mktemp("stores") / "data")
    data.prepare()
    with data.sockets(others_pass=os.geteuid() == 0) as sockets:
        postgresql = PostgreSQL.of(data, sockets, dict(os.environ))
        valkey = Valkey.of(data, sockets, dict(os.environ))
        await postgresql.prepare()
        children = [await Child.start(postgresql.command()), await Child.start(valkey.command())]
        try:
            await postgresql.until_ready(children[0])
            await valkey.until_ready(children[1])
            await migrate(postgresql.dsn)
            yield Stores(postgresql.dsn, valkey.url)
        finally:
            for child in reversed(children):
                await child.stop()


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
