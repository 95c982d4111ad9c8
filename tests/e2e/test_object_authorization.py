"""Every route × two tenants × every kind of credential: nobody reaches what is another's, and no route is open by
accident (OWASP API1:2023, broken object level authorization)."""

import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.control.app import PREFIX, admin_routes
from gateway.edge.app import DataPlane
from gateway.process import Gateway
from tests.e2e.credentials import Credential, Way, api_key, client, issuer_token
from tests.e2e.raw import chat
from tests.e2e.replicas import replica
from tests.e2e.stack import Stack, stack, until
from tests.e2e.tenants import Terms, add_model, add_tenant
from tests.gateway.identity.certificates import Authority
from tests.gateway.identity.loopback_issuer import LoopbackIssuer
from tests.gateway.identity.making import settings_of

# Without a credential, and why.
OPEN = {
    ("GET", "/healthz"): "load balancers have none",
    ("GET", "/readyz"): "load balancers have none",
    ("POST", "/oauth/token"): "authenticates its clients itself",
    ("GET", "/.well-known/oauth-authorization-server"): "a public document (RFC 8414)",
    ("GET", "/.well-known/jwks.json"): "public keys",
}
MINE, THEIRS = "scripted-small", "scripted-paced"
KINDS = ("key", "client", "client dpop", "client mtls", "issuer")


async def routes(data_dir: Path) -> list[tuple[str, str]]:
    """Every route of the data plane, as the application itself lists them."""
    gateway = Gateway(settings_of(data_dir))
    try:
        listed = DataPlane(gateway).routes
        return sorted((method, path) for path, methods in listed for method in methods if method != "HEAD")
    finally:
        await gateway.identifier.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that may ask OpenID issuers on loopback, and does not mind being tried often."""
    settings = {"SEKISHO_ISSUER_NETWORKS": "127.0.0.0/8", "SEKISHO_AUTH_FAILURES_PER_MINUTE": "1000000"}
    with stack(tmp_path_factory.mktemp("bola") / "data", settings) as running:
        yield running


@pytest.fixture(scope="module")
def tls_ways(guarded: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Way, Way]]:
    """One more gateway that ends TLS itself, reached with the certificates of two clients."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder, "authority")
    server = authority.issue("server")
    options = ("--tls-cert", server.certificate, "--tls-key", server.key, "--client-ca", authority.party.certificate)
    with replica(guarded, folder / "gateway.log", tls=[str(option) for option in options]) as gateway:
        ways = []
        for name in ("one", "other"):
            party = authority.issue(name)
            context = ssl.create_default_context(cafile=str(authority.party.certificate))
            context.load_cert_chain(party.certificate, party.key)
            ways.append(Way(gateway.root, context))
        yield ways[0], ways[1]


@pytest_asyncio.fixture(scope="module")
async def pairs(
    guarded: Stack, tls_ways: tuple[Way, Way]
) -> AsyncIterator[Mapping[str, tuple[Credential, Credential]]]:
    """By kind: a credential of one tenant, and one of another that may use other models."""
    await add_model(guarded, THEIRS)
    mine = await add_tenant(guarded, Terms(models=(MINE,)), name="mine")
    theirs = await add_tenant(guarded, Terms(models=(THEIRS,)), name="theirs")
    async with LoopbackIssuer() as one, LoopbackIssuer() as other:
        yield {
            "key": (api_key(guarded, mine), api_key(guarded, theirs)),
            "client": (await client(guarded, mine), await client(guarded, theirs)),
            "client dpop": (await client(guarded, mine, "dpop"), await client(guarded, theirs, "dpop")),
            "client mtls": (
                await client(guarded, mine, "mtls", tls_ways[0]),
                await client(guarded, theirs, "mtls", tls_ways[1]),
            ),
            "issuer": (await issuer_token(guarded, mine, one), await issuer_token(guarded, theirs, other)),
        }


async def ask(stack: Stack, credential: Credential | None, method: str, path: str, model: str = MINE) -> httpx.Response:
    """One request; a POST asks `model` for two tokens."""
    way = Way(stack.root) if credential is None else credential.way
    body: Any = {"prompt": "x", "model": model} if path == "/v1/completions" else chat(model)
    headers = {} if credential is None else credential.headers(method, way.root + path)
    async with way.client() as asking:
        return await asking.request(
            method, path, headers=headers, json={**body, "max_tokens": 2} if method == "POST" else None
        )


def texts_of(answer: httpx.Response) -> str:
    return f"{dict(answer.headers)}{answer.text}"


async def test_every_route_is_authenticated_or_listed_with_its_reason(guarded: Stack, tmp_path: Path) -> None:
    found = await routes(tmp_path)
    assert set(OPEN) <= set(found)
    for method, path in found:
        answer = await ask(guarded, None, method, path.replace("{model:path}", MINE))
        if (method, path) in OPEN:
            assert answer.status_code != 401 or path == "/oauth/token", path
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_api_key"), path


@pytest.mark.parametrize("kind", KINDS)
async def test_every_route_with_a_model_serves_ones_own_and_hides_the_others(
    guarded: Stack, pairs: Mapping[str, Sequence[Credential]], kind: str, tmp_path: Path
) -> None:
    calls = [
        route for route in await routes(tmp_path) if route not in OPEN and route[1] not in ("/v1/usage", "/v1/limits")
    ]
    assert len(calls) >= 4
    for credential, own, foreign in ((pairs[kind][0], MINE, THEIRS), (pairs[kind][1], THEIRS, MINE)):

        async def known(credential: Credential = credential, own: str = own) -> bool | None:
            return (await ask(guarded, credential, "POST", "/v1/chat/completions", own)).status_code == 200 or None

        await until(known, 5.0, f"the gateway does not know the {kind}")
        for method, path in calls:
            if path == "/v1/models":
                listed = (await ask(guarded, credential, method, path)).json()["data"]
                assert [card["id"] for card in listed] == [own]
                continue
            good = await ask(guarded, credential, method, path.replace("{model:path}", own), own)
            assert good.status_code == 200, (path, good.text)
            bad = await ask(guarded, credential, method, path.replace("{model:path}", foreign), foreign)
            none = await ask(guarded, credential, method, path.replace("{model:path}", "no-such"), "no-such")
            assert bad.status_code == none.status_code == 404
            ids = [answer.headers["x-request-id"] for answer in (bad, none)]
            assert bad.text.replace(ids[0], "") == none.text.replace(ids[1], "")


@pytest.mark.parametrize("kind", KINDS)
async def test_usage_is_ones_own_and_names_nobody_else(
    guarded: Stack, pairs: Mapping[str, Sequence[Credential]], kind: str
) -> None:
    for credential, other in (pairs[kind], tuple(reversed(pairs[kind]))):
        assert (await ask(guarded, credential, "POST", "/v1/chat/completions", _model(credential))).status_code == 200

        async def booked(credential: Credential = credential) -> httpx.Response | None:
            answer = await ask(guarded, credential, "GET", "/v1/usage?group_by=model,key")
            return answer if credential.credential_id in {row["key"] for row in answer.json()["rows"]} else None

        answer = await until(booked, 5.0, "the request is not in the usage")
        for foreign in (other.tenant.tenant_id, other.tenant.licence_id, other.credential_id, _model(other)):
            assert foreign not in texts_of(answer)


@pytest.mark.parametrize("kind", KINDS)
async def test_limits_are_ones_own_and_name_nobody_else(
    guarded: Stack, pairs: Mapping[str, Sequence[Credential]], kind: str
) -> None:
    for credential, other in (pairs[kind], tuple(reversed(pairs[kind]))):

        async def told(credential: Credential = credential) -> httpx.Response | None:
            answer = await ask(guarded, credential, "GET", "/v1/limits")
            return answer if answer.status_code == 200 else None

        answer = await until(told, 5.0, "limits are not told")
        names = {level["name"] for level in answer.json()["limits"][0]["levels"]}
        assert {"tenant", f"licence:{credential.tenant.licence_id}/g1", f"key:{credential.credential_id}"} == names
        for foreign in (other.tenant.tenant_id, other.tenant.licence_id, other.credential_id):
            assert foreign not in texts_of(answer)


def _model(credential: Credential) -> str:
    return MINE if credential.tenant.tenant_id.startswith("mine") else THEIRS


@pytest.mark.parametrize("kind", KINDS)
async def test_no_data_plane_credential_opens_any_route_of_the_admin_plane(
    guarded: Stack, pairs: Mapping[str, Sequence[Credential]], kind: str
) -> None:
    root = str(guarded.up["admin_url"]).removesuffix(PREFIX)
    credential, listed = pairs[kind][0], admin_routes()
    assert len(listed) > 40
    async with httpx.AsyncClient(base_url=root, trust_env=False) as asking:
        for route in listed:
            path = PREFIX + re.sub(r"\{[^}]+\}", credential.tenant.tenant_id, route.path)
            for method in route.methods or ():
                answer = await asking.request(method, path, headers=credential.headers(method, root + path))
                assert answer.status_code == 401, path
    for path in (f"{PREFIX}/tenants", f"{PREFIX}/openapi.json", "/console"):
        assert (await ask(guarded, credential, "GET", path)).status_code == 404


async def test_admin_key_is_no_key_of_the_data_plane(guarded: Stack) -> None:
    async with httpx.AsyncClient(trust_env=False) as asking:
        answer = await asking.get(
            guarded.base_url + "/models", headers={"authorization": f"Bearer {guarded.up['admin_key']}"}
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_bound_token_without_its_proof_opens_nothing(
    guarded: Stack, pairs: Mapping[str, Sequence[Credential]]
) -> None:
    url = guarded.base_url + "/models"
    token = pairs["client dpop"][0].headers("GET", url)["authorization"].removeprefix("DPoP ")
    async with httpx.AsyncClient(trust_env=False) as asking:
        for scheme in ("Bearer", "DPoP"):
            answer = await asking.get(url, headers={"authorization": f"{scheme} {token}"})
            assert answer.status_code == 401


async def test_token_bound_to_a_certificate_opens_nothing_with_another_one(
    guarded: Stack, pairs: Mapping[str, Sequence[Credential]]
) -> None:
    mine, theirs = pairs["client mtls"]
    assert (await ask(guarded, mine, "GET", "/v1/models")).status_code == 200
    stolen = replace(mine, way=theirs.way)
    answer = await ask(guarded, stolen, "GET", "/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "certificate_mismatch")
