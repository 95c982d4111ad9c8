"""The token endpoint over HTTP: its documents, its parameters, and what each refusal says."""

import pytest
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.jwk import KeySet

from gateway.edge.oauth import FORM_BYTES_MAX, JWKS_PATH, METADATA_PATH, routes
from gateway.faults import Fault
from gateway.identity.grants import TOKEN_PATH, TOKEN_S
from tests.gateway.identity.conftest import Make, refused
from tests.gateway.identity.issuing import TOKEN_URL, assertion_of, form_of
from tests.gateway.identity.making import BASE, NO_VALKEY, NOW, SECOND, a_client, bearer, credentials_of
from tests.gateway.identity.token_server import KEY, Server


async def test_client_gets_a_short_token_that_identifies_it(server: Server) -> None:
    client = a_client(KEY)
    server.credentials = credentials_of(client)
    status, answer = await server.ask(form_of(assertion_of(client, KEY)))
    assert (status, answer["token_type"], answer["expires_in"]) == (200, "Bearer", TOKEN_S)
    assert answer["scope"] == "chat completion models usage"
    token = answer["access_token"]
    principal = await server.identifier.identify(bearer(token), server.credentials, NOW)
    assert (principal.key_id, principal.tenant_id) == (client.access.credential_id, "tenant-a")
    assert principal.subject == client.access.credential_id
    jwks = (await server.http.get(JWKS_PATH)).json()
    read = jwt.decode(token, KeySet.import_key_set(jwks), algorithms=["Ed25519"])
    assert (read.header["typ"], read.header["alg"]) == ("at+jwt", "Ed25519")
    assert read.claims.keys() == {"iss", "aud", "sub", "client_id", "iat", "exp", "jti", "scope"}  # RFC 9068 §2.2
    last = NOW + (TOKEN_S + 5) * SECOND
    assert await server.identifier.identify(bearer(token), server.credentials, last - 1)
    assert await refused(server.identifier, bearer(token), server.credentials, last) == "token_expired"


async def test_metadata_names_what_there_is_and_no_private_key(server: Server) -> None:
    metadata = (await server.http.get(METADATA_PATH)).json()
    AuthorizationServerMetadata(metadata).validate_issuer()
    assert (metadata["issuer"], metadata["token_endpoint"]) == (BASE, TOKEN_URL)
    assert metadata["jwks_uri"] == BASE + JWKS_PATH
    assert metadata["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    (key,) = (await server.http.get(JWKS_PATH)).json()["keys"]
    assert key.keys() == {"kty", "crv", "x", "kid", "use", "alg"}


@pytest.mark.parametrize(
    ("change", "error"),
    [({"grant_type": "password"}, "unsupported_grant_type"), ({"grant_type": ""}, "invalid_request"),
     ({"client_assertion_type": "x"}, "invalid_client"), ({"client_assertion": ""}, "invalid_client"),
     ({"client_id": "oc_other"}, "invalid_client"), ({"resource": "https://other"}, "invalid_target"),
     ({"resource": f"{BASE}.evil/"}, "invalid_target"), ({"resource": f"{BASE}/v1"}, None), ({"unknown": "1"}, None)],
)  # fmt: skip
async def test_parameters_are_judged_by_the_rfc(server: Server, change: dict[str, str], error: str | None) -> None:
    client = a_client(KEY)
    server.credentials = credentials_of(client)
    _, answer = await server.ask({**form_of(assertion_of(client, KEY)), **change})
    assert answer.get("error") == error


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"grant_type=client_credentials&grant_type=client_credentials", None), (b"grant_type=a&grant_type=", None),
     (b"a=" + b"x" * FORM_BYTES_MAX, None), (b"&".join(b"a%d=1" % number for number in range(33)), None),
     (b"grant_type=%ff", None), (b"grant_type=\xff", None), (b"no-pair", None),
     (b'{"grant_type": "client_credentials"}', "application/json"), (b"grant_type=x", "multipart/form-data")],
    ids=range(9),
)  # fmt: skip
async def test_body_that_is_no_proper_form_is_refused(server: Server, body: bytes, content_type: str | None) -> None:
    headers = {"content-type": content_type or "application/x-www-form-urlencoded; charset=UTF-8"}
    response = await server.http.post(TOKEN_PATH, content=body, headers=headers)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    assert "grant_type" not in response.json()["error_description"]


async def test_refusals_by_the_state_of_the_gateway_are_told(make_identifier: Make) -> None:
    server, client = Server(make_identifier(NO_VALKEY)), a_client(KEY)
    server.credentials = credentials_of(client)
    response = await server.http.post(TOKEN_PATH, data=form_of(assertion_of(client, KEY)))
    assert (response.status_code, response.json()["error"]) == (503, "temporarily_unavailable")
    assert response.headers["retry-after"] == "1"
    server.fail(Fault("clock_behind", retry_after_s=5))
    status, answer = await server.ask(form_of("x"))
    assert (status, answer["error"]) == (503, "temporarily_unavailable")
    assert "clock_behind" in answer["error_description"]


async def test_failed_clients_are_limited_per_address(make_identifier: Make) -> None:
    server, client = Server(make_identifier(failures_per_minute=3)), a_client(KEY)
    server.credentials = credentials_of(client)
    server.http = server.client_at("2001:db8:fffe::1")
    assert [(await server.ask(form_of("x")))[0] for _ in range(5)] == [401, 401, 401, 429, 429]
    assert (await server.ask(form_of(assertion_of(client, KEY))))[0] == 429  # no signature is checked meanwhile
    server.http = server.client_at("2001:db8:fffd::1")
    assert (await server.ask(form_of(assertion_of(client, KEY))))[0] == 200


async def test_gateway_without_a_public_url_issues_no_tokens(make_identifier: Make) -> None:
    assert routes(make_identifier(public_urls=()), credentials_of, lambda: NOW) == []
