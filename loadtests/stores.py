"""The product's own stores with its own settings, started for a measurement or for tests, migrated, on unix sockets."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.migrations.run import migrate
from gateway.up.folder import DataFolder
from gateway.up.processes import Child
from gateway.up.stores import PostgreSQL, Valkey


@dataclass(frozen=True, slots=True)
class Stores:
    """How to reach them."""

    dsn: str
    valkey_url: str


@asynccontextmanager
async def stores(folder: Path) -> AsyncIterator[Stores]:
    """PostgreSQL with the schema of `head`, and Valkey, in `folder`; both are gone at the end."""
    data = DataFolder.at(folder)
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
