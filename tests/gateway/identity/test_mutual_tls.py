"""Tokens bound to a client certificate, over real TLS that the gateway's own protocol ends, or that a proxy ended."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import uvicorn
import uvloop

from gateway.edge.http_protocol import SekishoProtocol
from gateway.faults import Fault
from gateway.identity.binding import certificate_thumbprint
from gateway.identity.credentials import Credentials
from gateway.identity.presented import presented_of
from gateway.identity.service import Identifier
from gateway.identity.settings import Networks, Tls
from gateway.serve import tls_options
from tests.gateway.identity.certificates import Authority, Party
from tests.gateway.identity.conftest import refused
from tests.gateway.identity.issuing import token_for
from tests.gateway.identity.making import NOW, a_client, a_key, bearer, credentials_of

# RFC 8705 appendix A, figures 5 and 6.
RFC_CERTIFICATE = (
    "MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAxODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UEAwwE"
    "bXRsczBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNcnyxwqV6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ/Au08/coZwxS7LfA4vOLS9WuneIXhbGG"
    "WvsDSb0tH6IxLm8wCgYIKoZIzj0EAwIDSQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOVbUlJSGQgjwD5vaUa"
    "KlLR50Q2DmFfQj1L+SY="
)
RFC_THUMBPRINT = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"


class Echo:
    """An application that identifies each request and answers with the principal or the refusal."""

    def __init__(self, identifier: Identifier, trusted: Networks) -> None:
        self.credentials: Credentials = credentials_of()
        self._identifier = identifier
        self._trusted = trusted

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        try:
            principal = await self._identifier.identify(presented_of(scope, self._trusted), self.credentials, NOW)
            body = principal.key_id
        except Fault as fault:
            body = fault.code.name
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body.encode()})


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.up.set()

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()


@contextlib.asynccontextmanager
async def serving(app: Any, tls: Tls | None) -> AsyncIterator[str]:
    """uvicorn with the gateway's protocol and TLS options; yields the base URL."""
    config = uvicorn.Config(
        app, port=0, http=SekishoProtocol, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1,
        **tls_options(tls),
    )  # fmt: skip
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    await server.up.wait()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    yield Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest_asyncio.fixture
async def echo(identifier: Identifier) -> Echo:
    return Echo(identifier, ())


async def ask(url: str, token: str, authority: Authority, client: Party | None, **headers: str) -> str:
    context = ssl.create_default_context(cafile=str(authority.party.certificate))
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    sent = {"authorization": f"Bearer {token}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with aiohttp.ClientSession() as session, session.get(url, headers=sent, ssl=context) as response:
        return await response.text("latin-1")


def test_thumbprint_is_that_of_the_rfc() -> None:
    assert certificate_thumbprint(base64.b64decode(RFC_CERTIFICATE)) == RFC_THUMBPRINT


async def test_bound_token_passes_on_a_connection_with_its_certificate_only(
    identifier: Identifier, authority: Authority, echo: Echo
) -> None:
    key, mine, other, server = a_key("ES256"), *(authority.issue(name) for name in ("mine", "other", "server"))
    client = a_client(key, "mtls")
    token = await token_for(identifier, client, key, certificate=mine.der)
    echo.credentials = credentials_of(client)
    client_cert = f":{base64.b64encode(mine.der).decode()}:"
    async with serving(echo, Tls(server.certificate, server.key, authority.party.certificate)) as url:
        assert await ask(url, token, authority, mine) == client.access.credential_id
        assert await ask(url, token, authority, other) == "certificate_mismatch"
        assert await ask(url, token, authority, None) == "certificate_mismatch"
        assert await ask(url, token, authority, None, client_cert=client_cert) == "certificate_mismatch"
        assert await ask(url, token, authority, other, client_cert=client_cert) == "certificate_mismatch"


async def test_certificate_reaches_the_application_in_the_servers_own_event_loop(authority: Authority) -> None:
    mine, server = authority.issue("mine"), authority.issue("server")

    async def tell(scope: Any, _receive: Any, send: Any) -> None:
        shown = presented_of(scope).certificate
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"none" if shown is None else shown})

    async def asked_twice() -> tuple[str, str]:
        async with serving(tell, Tls(server.certificate, server.key, authority.party.certificate)) as url:
            return await ask(url, "x", authority, mine), await ask(url, "x", authority, None)

    shown, none = await asyncio.to_thread(uvloop.run, asked_twice())
    assert (shown.encode("latin-1"), none) == (mine.der, "none")


async def test_certificate_of_an_unknown_authority_ends_the_handshake(
    authority: Authority, echo: Echo, tmp_path: Path
) -> None:
    server, stranger = authority.issue("server"), Authority(tmp_path, "stranger").issue("mine")
    async with serving(echo, Tls(server.certificate, server.key, authority.party.certificate)) as url:
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await ask(url, "x", authority, stranger)


async def test_without_authorities_no_certificate_is_asked_for(
    identifier: Identifier, authority: Authority, echo: Echo
) -> None:
    key, mine, server = a_key("ES256"), authority.issue("mine"), authority.issue("server")
    client = a_client(key, "mtls")
    token = await token_for(identifier, client, key, certificate=mine.der)
    echo.credentials = credentials_of(client)
    async with serving(echo, Tls(server.certificate, server.key)) as url:
        assert await ask(url, token, authority, mine) == "certificate_mismatch"


async def test_certificate_told_by_a_proxy_counts_from_its_network_only(
    identifier: Identifier, authority: Authority
) -> None:
    key, mine = a_key("ES256"), authority.issue("mine")
    client = a_client(key, "mtls")
    token = await token_for(identifier, client, key, certificate=mine.der)
    client_cert = f":{base64.b64encode(mine.der).decode()}:"
    for trusted, answer in (
        ((ip_network("127.0.0.0/8"),), client.access.credential_id),
        ((ip_network("10.0.0.0/8"),), "certificate_mismatch"),
    ):
        app = Echo(identifier, trusted)
        app.credentials = credentials_of(client)
        async with serving(app, None) as url:
            assert await ask(url, token, authority, None, client_cert=client_cert) == answer


async def test_token_of_a_client_that_must_bind_is_refused_unbound(identifier: Identifier) -> None:
    key = a_key("ES256")
    free = a_client(key)
    token = await token_for(identifier, free, key)
    demanded = credentials_of(type(free)(free.access, free.jwks, "mtls"))
    presented = bearer(token, certificate=b"any")
    assert await refused(identifier, presented, demanded) == "certificate_mismatch"
    assert await identifier.identify(presented, credentials_of(free), NOW)
