"""Identifiers on real Valkey, and without one."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.faults import Fault
from gateway.identity.credentials import Credentials, Presented
from gateway.identity.service import Identifier
from tests.conftest import Stores
from tests.gateway.identity.loopback_issuer import LOOPBACK, LoopbackIssuer
from tests.gateway.identity.making import NOW, credentials_of, settings_of
from tests.gateway.identity.token_server import Server

Make = Callable[..., Identifier]


@pytest_asyncio.fixture
async def make_identifier(stores: Stores, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes identifiers of processes that share a data folder and Valkey; `valkey_url` names another one."""
    made: list[Identifier] = []

    def make(valkey_url: str = stores.valkey_url, **identity: Any) -> Identifier:
        made.append(Identifier(settings_of(tmp_path, valkey_url, **identity)))
        return made[-1]

    yield make
    for identifier in made:
        await identifier.close()


@pytest.fixture
def identifier(make_identifier: Make) -> Identifier:
    """The identifier of one process, which may ask issuers on loopback."""
    return make_identifier(issuer_networks=LOOPBACK)


@pytest_asyncio.fixture
async def issuer() -> AsyncIterator[LoopbackIssuer]:
    """An OpenID issuer with one key."""
    async with LoopbackIssuer() as issuer:
        yield issuer


@pytest.fixture
def known(issuer: LoopbackIssuer) -> Credentials:
    """Credentials with that issuer as tenant-a's."""
    return credentials_of(issuer.registered())


async def refused(identifier: Identifier, presented: Presented, credentials: Credentials, now: int = NOW) -> str:
    """The code with which a request is refused."""
    with pytest.raises(Fault) as caught:
        await identifier.identify(presented, credentials, now)
    fault = caught.value
    assert (fault.code.status == 401) == ("www-authenticate" in fault.headers)
    return fault.code.name


@pytest_asyncio.fixture
async def server(make_identifier: Make) -> AsyncIterator[Server]:
    """The authorization server of one process that limits nobody."""
    server = Server(make_identifier(failures_per_minute=1_000_000))
    async with server.http:
        yield server
