"""The client credentials grant: who gets a token, for what, bound to whom, and how long it is believed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from authlib.oauth2.rfc7523.assertion import private_key_jwt_sign  # type: ignore[import-untyped]

from gateway.clock import now_us
from gateway.edge.oauth import JWKS_PATH
from gateway.faults import Fault
from gateway.identity.scopes import check_scope
from gateway.identity.token_keys import rotate
from tests.gateway.identity.conftest import Make, refused
from tests.gateway.identity.issuing import TOKEN_URL, assertion_of, form_of, token_for
from tests.gateway.identity.making import (
    BASE,
    NOW,
    NOW_S,
    SECOND,
    Holder,
    a_client,
    a_key,
    an_access,
    bearer,
    credentials_of,
    dpop,
    raw_jwt,
    signed,
)
from tests.gateway.identity.token_server import KEY, Server


async def test_assertion_of_an_oauth_library_is_taken(server: Server) -> None:
    client = a_client(KEY)
    server.credentials = credentials_of(client)
    server.now = now_us()  # the library signs with the real time
    assertion = private_key_jwt_sign(
        KEY, client.access.credential_id, TOKEN_URL, alg="ES256", expires_in=300
    )  # fmt: skip
    assert (await server.ask(form_of(assertion)))[0] == 200


@pytest.mark.parametrize("alg", ["Ed25519", "ES256", "PS256", "RS256"])
async def test_each_admitted_algorithm_authenticates(server: Server, alg: str) -> None:
    key = a_key(alg)
    client = a_client(key)
    server.credentials = credentials_of(client)
    assert (await server.ask(form_of(assertion_of(client, key, alg))))[0] == 200


@pytest.mark.parametrize(
    ("claims", "good"),
    [({"aud": BASE}, True), ({"aud": [BASE]}, True), ({"aud": [BASE, TOKEN_URL]}, False), ({"aud": "https://x"}, False),
     ({"aud": []}, False), ({"aud": None}, False), ({"exp": NOW_S - 59}, True), ({"exp": NOW_S - 60}, False),
     ({"exp": NOW_S + 360}, True), ({"exp": NOW_S + 361}, False), ({"exp": None}, False), ({"iat": NOW_S + 61}, False),
     ({"nbf": NOW_S + 61}, False), ({"jti": None}, False), ({"jti": ""}, False), ({"jti": "j" * 257}, False),
     ({"iss": "oc_other"}, False), ({"sub": "oc_other"}, False), ({"iss": None}, False)],
)  # fmt: skip
async def test_claims_of_an_assertion_are_judged(server: Server, claims: dict[str, Any], good: bool) -> None:
    client = a_client(KEY)
    server.credentials = credentials_of(client)
    status, answer = await server.ask(form_of(assertion_of(client, KEY, **claims)))
    assert (status, answer.get("error")) == ((200, None) if good else (401, "invalid_client"))


async def test_assertion_of_another_key_or_kind_is_refused(server: Server) -> None:
    client, other = a_client(KEY), a_client(a_key("ES256"))
    server.credentials = credentials_of(client, other)
    client_id = client.access.credential_id
    claims = {"iss": client_id, "sub": client_id, "aud": TOKEN_URL, "exp": NOW_S + 60, "jti": "x"}
    for assertion in (
        assertion_of(client, a_key("ES256")),
        assertion_of(client, KEY, header={"typ": "dpop+jwt"}),
        assertion_of(client, KEY, header={"typ": "at+jwt"}),
        raw_jwt({"alg": "none"}, claims),
        raw_jwt({"alg": "HS256"}, claims, b"x"),
        "x", "é.é.é", "A" * 15_000,
    ):  # fmt: skip
        status, answer = await server.ask(form_of(assertion))
        assert (status, answer) == (
            401, {"error": "invalid_client", "error_description": "the client assertion is not valid"},
        )  # fmt: skip


async def test_access_token_is_no_assertion_and_an_assertion_no_access_token(server: Server) -> None:
    client = a_client(KEY)
    server.credentials = credentials_of(client)
    token = await token_for(server.identifier, client, KEY)
    assert (await server.ask(form_of(token)))[0] == 401
    assertion = bearer(assertion_of(client, KEY))
    assert await refused(server.identifier, assertion, server.credentials) == "invalid_token"


async def test_assertion_is_taken_once_by_all_processes(make_identifier: Make) -> None:
    client = a_client(KEY)
    servers = [Server(make_identifier()) for _ in range(3)]
    form = form_of(assertion_of(client, KEY))
    for server in servers:
        server.credentials = credentials_of(client)
    answers = await asyncio.gather(*(server.ask(form) for server in servers * 5))
    assert sorted(status for status, _ in answers) == [200, *[401] * 14]
    assert {answer["error_description"] for status, answer in answers if status == 401} == {
        "the client assertion was used before"
    }


async def test_client_that_may_not_ask_gets_nothing(server: Server) -> None:
    for fields in ({"revoked_at": NOW}, {"expires_at": NOW}, {"networks": ()}):
        client = a_client(KEY, **fields)
        server.credentials = credentials_of(client)
        status, answer = await server.ask(form_of(assertion_of(client, KEY)))
        assert (status, answer["error"]) == (401, "invalid_client")


async def test_token_of_a_client_revoked_since_is_refused(server: Server) -> None:
    client = a_client(KEY)
    token = await token_for(server.identifier, client, KEY)
    principal = await server.identifier.identify(bearer(token), credentials_of(client), NOW)
    access = an_access(client.access.credential_id, "client", revoked_at=NOW)
    revoked = credentials_of(type(client)(access, client.jwks))
    assert await refused(server.identifier, bearer(token), revoked) == "credential_revoked"
    assert not server.identifier.still_valid(principal, revoked, NOW)
    assert server.identifier.still_valid(principal, credentials_of(client), NOW + 3600 * SECOND)
    assert await refused(server.identifier, bearer(token), credentials_of()) == "invalid_token"


async def test_token_does_not_outlive_its_clients_registration(server: Server) -> None:
    client = a_client(KEY, expires_at=NOW + 90 * SECOND)
    server.credentials = credentials_of(client)
    assert (await server.ask(form_of(assertion_of(client, KEY))))[1]["expires_in"] == 90


async def test_scope_can_be_narrowed_and_not_widened(server: Server) -> None:
    client = a_client(KEY, scopes=frozenset({"chat", "usage"}))
    server.credentials = credentials_of(client)
    for asked, granted in {"": "chat usage", "chat": "chat", "usage chat": "chat usage"}.items():
        assert (await server.ask(form_of(assertion_of(client, KEY), scope=asked)))[1]["scope"] == granted
    for asked in ("models", "chat models", "chat  usage", "admin", "chat\tusage", "チャット"):
        status, answer = await server.ask(form_of(assertion_of(client, KEY), scope=asked))
        assert (status, answer["error"]) == (400, "invalid_scope")


async def test_scope_of_the_token_and_of_the_credential_both_bind(server: Server) -> None:
    client = a_client(KEY)
    form = form_of(assertion_of(client, KEY), scope="chat usage")
    server.credentials = credentials_of(client)
    token = (await server.ask(form))[1]["access_token"]
    access = an_access(client.access.credential_id, "client", scopes=frozenset({"chat", "models"}))
    narrowed = credentials_of(type(client)(access, client.jwks))
    principal = await server.identifier.identify(bearer(token), narrowed, NOW)
    check_scope(principal, "chat")
    for scope in ("usage", "models"):
        with pytest.raises(Fault) as caught:
            check_scope(principal, scope)
        assert (caught.value.code.name, caught.value.code.status) == ("insufficient_scope", 403)
        assert f'error="insufficient_scope", scope="{scope}"' in caught.value.headers["www-authenticate"]


async def test_client_that_must_bind_gets_no_free_token(server: Server) -> None:
    for binding, error in (("dpop", "invalid_dpop_proof"), ("mtls", "invalid_request")):
        client = a_client(KEY, binding)  # type: ignore[arg-type] # the two literals
        server.credentials = credentials_of(client)
        status, answer = await server.ask(form_of(assertion_of(client, KEY)))
        assert (status, answer["error"]) == (400, error)


async def test_proof_at_the_token_endpoint_binds_the_token_and_is_taken_once(server: Server) -> None:
    client, holder = a_client(KEY), Holder.make()
    server.credentials = credentials_of(client)
    proof = holder.proof(None, htu=TOKEN_URL)
    status, answer = await server.ask(form_of(assertion_of(client, KEY)), dpop=proof)
    assert (status, answer["token_type"]) == (200, "DPoP")
    token = answer["access_token"]
    assert await server.identifier.identify(dpop(token, holder.proof(token)), server.credentials, NOW)
    for wrong in (proof, holder.proof(None), "x", ""):  # used before; for another URL; none at all
        status, answer = await server.ask(form_of(assertion_of(client, KEY)), dpop=wrong)
        assert (status, answer["error"]) == (400, "invalid_dpop_proof")


async def test_rotated_key_signs_at_once_and_the_one_before_is_still_believed(
    server: Server, make_identifier: Make, tmp_path: Path
) -> None:
    other, client = make_identifier(), a_client(KEY)
    stored = credentials_of(client)
    before = await token_for(server.identifier, client, KEY)
    await other.identify(bearer(before), stored, NOW)
    kid = rotate(tmp_path)
    server.now = later = NOW + 2 * SECOND
    server.credentials = stored
    after = (await server.ask(form_of(assertion_of(client, KEY))))[1]["access_token"]
    keys = (await server.http.get(JWKS_PATH)).json()["keys"]
    assert (keys[0]["kid"], len(keys)) == (kid, 2)
    for identifier in (server.identifier, other):  # the other process has not looked at the file yet
        for token in (before, after):
            assert await identifier.identify(bearer(token), stored, later)
    rotate(tmp_path)
    for identifier in (server.identifier, other):
        assert await refused(identifier, bearer(before), stored, later + 2 * SECOND) == "invalid_token"
        assert await identifier.identify(bearer(after), stored, later + 2 * SECOND)


async def test_own_token_with_another_audience_type_or_key_is_refused(server: Server) -> None:
    client = a_client(KEY)
    stored = credentials_of(client)
    ring = server.identifier.grants.ring(NOW)
    kid = ring.current.thumbprint()
    claims = {"iss": BASE, "aud": BASE, "client_id": client.access.credential_id, "exp": NOW_S + 60}
    assert await server.identifier.identify(bearer(signed(ring.current, "Ed25519", claims, typ="at+jwt")), stored, NOW)
    for changed, header in (
        ({"aud": "https://x"}, {}), ({"aud": [BASE]}, {}), ({"client_id": "oc_x"}, {}), ({}, {"typ": "JWT"}),
        ({}, {"kid": None}), ({}, {"kid": "x"}),
    ):  # fmt: skip
        token = signed(ring.current, "Ed25519", {**claims, **changed}, **{"typ": "at+jwt", "kid": kid, **header})
        assert await refused(server.identifier, bearer(token), stored) == "invalid_token"
    forged = signed(a_key(), "Ed25519", claims, typ="at+jwt", kid=kid)
    assert await refused(server.identifier, bearer(forged), stored) == "invalid_token"
