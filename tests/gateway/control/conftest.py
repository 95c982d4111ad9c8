"""One admin plane per session on the session's PostgreSQL."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
import uvicorn

from gateway.clock import Clock
from gateway.control.app import PREFIX, admin_app
from gateway.control.bootstrap import ensure_admin_key
from gateway.control.plane import Plane, pool_of
from gateway.edge.http_protocol import SekishoProtocol
from gateway.identity.secrets import load_peppers
from gateway.identity.shared import FailedAttempts
from gateway.limits.holds import Holds
from gateway.limits.scripts import Scripts
from gateway.tenancy.keystore import KeyFiles
from gateway.tenancy.standing import LimitView
from gateway.tenancy.watch import SnapshotWatch
from tests.conftest import Stores
from tests.gateway.control.admin import Administration, Administrator
from tests.gateway.control.parties import Parties


@pytest_asyncio.fixture(scope="session")
async def admin(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Administration]:
    """The plane, with the key that the data folder holds."""
    data_dir = tmp_path_factory.mktemp("admin")
    connection = await asyncpg.connect(stores.dsn, server_settings={"role": "sekisho_app"})
    async with connection.transaction():
        key = await ensure_admin_key(connection, data_dir)
    await connection.close()
    async with pool_of(stores.dsn) as pool:
        scripts = Scripts(stores.valkey_url)
        clock = Clock()
        watch, holds = SnapshotWatch(stores.dsn, clock), Holds(stores.valkey_url, stores.dsn)
        await watch.poll()
        watching = asyncio.create_task(watch.run())
        plane = Plane(pool, load_peppers(data_dir), KeyFiles(data_dir), LimitView(watch, holds, clock))
        app = admin_app(plane, FailedAttempts(scripts, 60))
        yield Administration(app, Administrator(app, key), data_dir, stores.dsn)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await watch.close()
        await holds.close()
        await scripts.close()


class _Server(uvicorn.Server):
    def capture_signals(self):  # type: ignore[no-untyped-def] # the test's process keeps its own
        return contextlib.nullcontext()


@pytest_asyncio.fixture(scope="session")
async def url(admin: Administration) -> AsyncIterator[str]:
    """The plane on a port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(admin.app, http=SekishoProtocol, ws="none", lifespan="off", log_config=None)
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}{PREFIX}"
    server.should_exit = True
    await task
    listener.close()


@pytest_asyncio.fixture
async def tenant(admin: Administration) -> str:
    """A tenant that no other test knows."""
    from tests.gateway.control.admin import tenant_body

    made: str = (await admin.root.good("POST", "/tenants", tenant_body()))["tenant_id"]
    return made


@pytest_asyncio.fixture
async def parties(admin: Administration) -> Parties:
    """An issuer that the plane trusts."""
    return await Parties.trusted(admin.root)
