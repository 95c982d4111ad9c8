"""A book in which nothing of other tests is due."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from tests.conftest import Stores
from tests.gateway.webhooks.receiving import Book, Receiver


@pytest_asyncio.fixture
async def book(stores: Stores, database: Any, tmp_path: Path) -> AsyncIterator[Book]:
    """Ready to deliver."""
    await database.execute("DELETE FROM webhook_delivery")
    made = Book(stores.dsn, database, tmp_path)
    yield made
    await made.deliverer.close()


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Takes everything."""
    async with Receiver() as made:
        yield made
