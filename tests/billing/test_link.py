"""A connection that broke is replaced, however the driver puts it."""

from typing import Any

import asyncpg
import pytest

from billing.link import Link, StoreUnavailable
from tests.conftest import Stores


class Broken:
    """A session that was killed in mid-statement, as asyncpg shows it: not closed, and of no more use."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.terminated = False

    def is_closed(self) -> bool:
        return False

    async def fetch(self, *_: Any) -> None:
        raise self.error

    def terminate(self) -> None:
        self.terminated = True


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        asyncpg.InterfaceError("connection is closed"),
        ConnectionResetError(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_broken_connection_is_a_store_that_is_away_and_then_another_one(stores: Stores, error: Exception) -> None:
    link = Link(stores.dsn)
    broken = link._connection = Broken(error)
    with pytest.raises(StoreUnavailable):
        await link.fetch("SELECT 1")
    assert broken.terminated
    assert (await link.fetch("SELECT 1 AS one"))[0]["one"] == 1
    await link.close()
