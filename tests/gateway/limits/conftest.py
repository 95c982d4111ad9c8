"""The limits of one process and of three; journal and Valkey itself to look behind them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from redis.asyncio import Redis

from billing.journal import Journal
from billing.link import Link
from gateway.limits.holds import Holds
from tests.conftest import Stores


@pytest_asyncio.fixture
async def holds(stores: Stores) -> AsyncIterator[Holds]:
    holds = Holds(stores.valkey_url, stores.dsn)
    yield holds
    await holds.close()


@pytest_asyncio.fixture
async def processes(stores: Stores) -> AsyncIterator[list[Holds]]:
    """Three processes' limits on one Valkey: each with its own connections, and nothing in memory that they share."""
    processes = [Holds(stores.valkey_url, stores.dsn) for _ in range(3)]
    yield processes
    for holds in processes:
        await holds.close()


@pytest_asyncio.fixture
async def valkey(stores: Stores) -> AsyncIterator[Any]:
    """Valkey itself; `book` tells which generation is in force."""
    client: Any = Redis.from_url(stores.valkey_url, decode_responses=True)
    client.book = Link(stores.dsn)
    yield client
    await client.book.close()
    await client.aclose()


@pytest_asyncio.fixture
async def journal(stores: Stores) -> AsyncIterator[Journal]:
    journal = Journal(stores.dsn)
    yield journal
    await journal.close()
