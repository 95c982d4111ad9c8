"""Books on the session's PostgreSQL, written by the owner, read and closed with the application's rights."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest_asyncio

from tests.billing.books import Books
from tests.conftest import Stores


@pytest_asyncio.fixture
async def owner(stores: Stores) -> AsyncIterator[Any]:
    """A connection that may copy rows that are final already."""
    connection = await asyncpg.connect(stores.dsn)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def books(owner: Any) -> Books:
    """A tenant in Tokyo."""
    return await Books(owner).open()
