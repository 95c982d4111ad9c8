"""How the keys of tenants' issuers are found and kept, and whom the gateway asks for them."""

import asyncio
import json
from ipaddress import ip_network

import pytest
from aiohttp import web

from gateway.identity.addresses import parse_address
from gateway.identity.credentials import Credentials
from gateway.identity.fetch import DOCUMENT_BYTES_MAX, permitted
from gateway.identity.issuers import ASK_AGAIN_US, DISCOVERY_PATH, FRESH_US, STALE_US
from gateway.identity.service import Identifier
from tests.gateway.identity.conftest import Make, refused
from tests.gateway.identity.loopback_issuer import LoopbackIssuer
from tests.gateway.identity.making import NOW, NOW_S, SECOND, a_key, bearer, credentials_of, jwks_of

STALE_S = STALE_US // SECOND


async def test_unknown_issuer_is_never_asked(identifier: Identifier, issuer: LoopbackIssuer) -> None:
    assert await refused(identifier, bearer(issuer.token()), credentials_of()) == "invalid_token"
    assert not issuer.asked


async def test_rotated_key_is_found_and_a_withdrawn_one_refused(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    old = issuer.token()
    await identifier.identify(bearer(old), known, NOW)
    issuer.keys = [a_key("ES256", "k2")]
    new = issuer.token()
    assert await refused(identifier, bearer(new), known, NOW + ASK_AGAIN_US - 1) == "invalid_token"
    assert (await identifier.identify(bearer(new), known, NOW + ASK_AGAIN_US)).key_id == "oi_1"
    assert issuer.asked["/jwks"] == 2
    assert await refused(identifier, bearer(old), known, NOW + 2 * ASK_AGAIN_US) == "invalid_token"


async def test_withdrawn_key_is_refused_when_the_keys_are_read_again(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    token = issuer.token()
    await identifier.identify(bearer(token), known, NOW)
    issuer.keys = [a_key("ES256", "k1")]  # the same key id, another key
    assert (await identifier.identify(bearer(token), known, NOW + FRESH_US - 1)).key_id == "oi_1"
    assert await refused(identifier, bearer(token), known, NOW + FRESH_US) == "invalid_token"


async def test_flood_of_unknown_key_ids_asks_the_issuer_once(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    tokens = [issuer.token(header={"kid": f"k-{number}"}) for number in range(50)]
    codes = await asyncio.gather(*(refused(identifier, bearer(token), known) for token in tokens))
    assert set(codes) == {"invalid_token"}
    assert issuer.asked["/jwks"] == 1


async def test_keys_serve_an_hour_while_the_issuer_is_down(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    await identifier.identify(bearer(issuer.token()), known, NOW)
    await issuer.stop()
    token = issuer.token(exp=NOW_S + 2 * STALE_S)
    assert (await identifier.identify(bearer(token), known, NOW + STALE_US - 1)).key_id == "oi_1"
    assert await refused(identifier, bearer(token), known, NOW + STALE_US) == "issuer_unavailable"


@pytest.mark.parametrize(
    ("path", "answer"),
    [(DISCOVERY_PATH, web.Response(status=503)), (DISCOVERY_PATH, web.Response(body=b"{")),
     (DISCOVERY_PATH, web.Response(body=b'{"jwks_uri": "http://127.0.0.1/jwks"}')),
     (DISCOVERY_PATH, web.Response(body=b"[]")),
     (DISCOVERY_PATH, web.Response(status=302, headers={"location": "/elsewhere"})),
     ("/jwks", web.Response(body=b'{"keys": []}')),
     ("/jwks", web.Response(body=b'{"keys": {"a": 1}}')), ("/jwks", web.Response(body=b"[" * 200_000))],
    ids=range(8),
)  # fmt: skip
async def test_answer_that_is_no_key_set_leaves_the_issuer_unavailable(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials, path: str, answer: web.Response
) -> None:
    issuer.answer[path] = answer
    token = issuer.token()
    assert await refused(identifier, bearer(token), known) == "issuer_unavailable"
    assert "/elsewhere" not in issuer.asked
    assert (await identifier.identify(bearer(token), known, NOW + ASK_AGAIN_US)).key_id == "oi_1"


async def test_key_set_that_is_too_long_or_encoded_is_not_read(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    good = jwks_of(*issuer.keys)
    long = {**good, "padding": "x" * DOCUMENT_BYTES_MAX}
    issuer.answer["/jwks"] = web.Response(body=json.dumps(long))
    assert await refused(identifier, bearer(issuer.token()), known) == "issuer_unavailable"
    issuer.answer["/jwks"] = web.Response(body=json.dumps(good), headers={"content-encoding": "x-any"})
    assert await refused(identifier, bearer(issuer.token()), known, NOW + ASK_AGAIN_US) == "issuer_unavailable"
    issuer.answer["/jwks"] = web.Response(body=json.dumps(good))
    assert await identifier.identify(bearer(issuer.token()), known, NOW + 2 * ASK_AGAIN_US)


async def test_discovery_document_of_another_issuer_is_not_believed(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    for number, named in enumerate(("https://other", issuer.url + "/", None)):
        body = json.dumps({"issuer": named, "jwks_uri": f"{issuer.url}/jwks"}).encode()
        issuer.answer[DISCOVERY_PATH] = web.Response(body=body)
        later = NOW + number * ASK_AGAIN_US
        assert await refused(identifier, bearer(issuer.token()), known, later) == "issuer_unavailable"
    assert not issuer.asked["/jwks"]


async def test_document_may_not_send_the_gateway_to_a_private_address(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    for number, url in enumerate(
        ("http://169.254.169.254/latest", "https://10.0.0.1/jwks", "file:///etc/passwd", "http://example.com/jwks",
         "https://[::ffff:10.0.0.1]/jwks", "http://localhost.example.com/", "//127.0.0.1/jwks")
    ):  # fmt: skip
        body = json.dumps({"issuer": issuer.url, "jwks_uri": url}).encode()
        issuer.answer[DISCOVERY_PATH] = web.Response(body=body)
        later = NOW + number * ASK_AGAIN_US
        assert await refused(identifier, bearer(issuer.token()), known, later) == "issuer_unavailable"


async def test_loopback_issuer_is_not_asked_unless_configured(
    make_identifier: Make, issuer: LoopbackIssuer, known: Credentials
) -> None:
    assert await refused(make_identifier(), bearer(issuer.token()), known) == "issuer_unavailable"
    by_name = LoopbackIssuer()
    by_name.url = issuer.url.replace("127.0.0.1", "localhost")
    token = issuer.token(iss=by_name.url)
    assert await refused(make_identifier(), bearer(token), credentials_of(by_name.registered())) == "issuer_unavailable"
    assert not issuer.asked


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("192.0.2.1", False), ("8.8.8.8", True), ("2606:4700::1", True), ("10.1.2.3", True), ("10.2.0.1", False),
     ("127.0.0.1", False), ("0.0.0.0", False), ("100.64.0.1", False), ("224.0.0.1", False), ("169.254.169.254", False),
     ("::1", False), ("fe80::1", False), ("fd00::1", False), ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True),
     ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("2001:0:7f00:1::", False), ("ff02::1", False)],
)  # fmt: skip
def test_only_public_and_configured_addresses_may_be_issuers(address: str, allowed: bool) -> None:
    assert permitted(parse_address(address), (ip_network("10.1.0.0/16"),)) is allowed
