"""Tokens of tenants' own issuers: whose they are, and when they hold."""

import dataclasses
import json
from typing import Any

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from gateway.identity.credentials import Credentials
from gateway.identity.issuers import DISCOVERY_PATH, FRESH_US
from gateway.identity.service import Identifier
from tests.gateway.identity.conftest import refused
from tests.gateway.identity.loopback_issuer import AUDIENCE, LoopbackIssuer
from tests.gateway.identity.making import (
    NOW,
    NOW_S,
    SECOND,
    a_key,
    bearer,
    credentials_of,
    ed25519_jwt,
    hmac_jwt,
    raw_jwt,
)


async def test_token_of_a_registered_issuer_speaks_for_its_tenant(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    principal = await identifier.identify(bearer(issuer.token()), known, NOW)
    assert (principal.tenant_id, principal.key_id, principal.subject) == ("tenant-a", "oi_1", "service-1")
    assert (principal.scopes, principal.access.purposes) == (None, None)


@pytest.mark.parametrize("alg", ["Ed25519", "ES256", "PS256", "RS256"])
async def test_each_admitted_algorithm_verifies(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials, alg: str
) -> None:
    issuer.keys = [a_key(alg, "k1")]
    assert (await identifier.identify(bearer(issuer.token(alg=alg)), known, NOW)).key_id == "oi_1"


async def test_token_that_comes_again_asks_and_verifies_nothing(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    token = issuer.token()
    await identifier.identify(bearer(token), known, NOW)
    with pytest.raises(StopIteration):
        identifier.identify(bearer(token), known, NOW).send(None)
    assert issuer.asked == {DISCOVERY_PATH: 1, "/jwks": 1}


async def test_known_token_ends_with_its_time_its_issuer_and_its_audience(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    token = issuer.token(exp=NOW_S + 60)
    await identifier.identify(bearer(token), known, NOW)
    row = issuer.registered()
    assert await refused(identifier, bearer(token), known, NOW + 120 * SECOND) == "token_expired"
    for code, stored in {
        "credential_revoked": credentials_of(issuer.registered(revoked_at=NOW)),
        "credential_expired": credentials_of(issuer.registered(expires_at=NOW)),
        "address_not_allowed": credentials_of(issuer.registered(networks=())),
        "invalid_token": credentials_of(dataclasses.replace(row, audience="https://other")),
    }.items():
        await identifier.identify(bearer(token), known, NOW)
        assert await refused(identifier, bearer(token), stored) == code
    assert await refused(identifier, bearer(token), credentials_of()) == "invalid_token"


@pytest.mark.parametrize(
    ("claims", "code"),
    [({"exp": NOW_S - 59}, None), ({"exp": NOW_S - 60}, "token_expired"),
     ({"nbf": NOW_S + 60}, None), ({"nbf": NOW_S + 61}, "token_not_yet_valid"),
     ({"iat": NOW_S + 60}, None), ({"iat": NOW_S + 61}, "token_not_yet_valid"),
     ({"iat": None}, None), ({"exp": None}, "invalid_token"), ({"exp": "never"}, "invalid_token"),
     ({"exp": True}, "invalid_token"), ({"exp": 10**400}, "invalid_token"), ({"exp": -1}, "invalid_token"),
     ({"aud": ["https://x", AUDIENCE]}, None), ({"aud": "https://x"}, "invalid_token"), ({"aud": []}, "invalid_token"),
     ({"aud": None}, "invalid_token"), ({"aud": AUDIENCE + "/"}, "invalid_token"), ({"iss": None}, "invalid_token"),
     ({"sub": 7}, "invalid_token"), ({"cnf": {"kid": "x"}}, "invalid_token"), ({"cnf": {}}, "invalid_token"),
     ({"cnf": {"jkt": 7}}, "invalid_token"), ({"cnf": {"jkt": "x", "kid": "y"}}, "invalid_token")],
)  # fmt: skip
async def test_claims_are_judged_to_the_second(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials, claims: dict[str, Any], code: str | None
) -> None:
    presented = bearer(issuer.token(**claims))
    if code is None:
        assert (await identifier.identify(presented, known, NOW)).key_id == "oi_1"
    else:
        assert await refused(identifier, presented, known) == code


async def test_not_a_number_is_no_time(identifier: Identifier, issuer: LoopbackIssuer, known: Credentials) -> None:
    for value in (float("nan"), float("inf")):
        assert await refused(identifier, bearer(issuer.token(exp=value)), known) == "invalid_token"


@pytest.mark.parametrize(
    "header",
    [{"typ": "dpop+jwt"}, {"typ": "logout+jwt"}, {"crit": ["exp"], "exp": 1}, {"crit": ["b64"], "b64": True},
     {"crit": []}, {"kid": "k2"}, {"kid": "../k1"}, {"kid": "k1\x00"}, {"kid": 1}],
)  # fmt: skip
async def test_header_that_means_something_else_is_refused(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials, header: dict[str, Any]
) -> None:
    key = a_key("Ed25519", "k1")
    assert isinstance(key, OKPKey)
    issuer.keys = [key]
    claims = {"iss": issuer.url, "aud": AUDIENCE, "exp": NOW_S + 60}
    plain = {"alg": "Ed25519", "kid": "k1"}
    assert await identifier.identify(bearer(ed25519_jwt(key, plain, claims)), known, NOW)
    assert await refused(identifier, bearer(ed25519_jwt(key, plain | header, claims)), known) == "invalid_token"


async def test_token_without_a_key_id_needs_a_single_key_that_fits(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    sealing = ECKey.generate_key("P-256", {"kid": "e1", "use": "enc"})
    issuer.keys = [sealing, a_key("RS256", "r1"), a_key("ES256", "k1")]
    token = issuer.token(header={"kid": None})
    assert (await identifier.identify(bearer(token), known, NOW)).key_id == "oi_1"
    issuer.keys.insert(0, a_key("ES256", "k0"))
    assert await refused(identifier, bearer(token), known, NOW + FRESH_US) == "invalid_token"


async def test_type_of_an_access_token_is_admitted_in_any_case(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    for typ in ("at+jwt", "application/AT+JWT", "JWT", None):
        assert (await identifier.identify(bearer(issuer.token(header={"typ": typ})), known, NOW)).subject == "service-1"


async def test_key_is_never_taken_for_another_algorithm(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    key = a_key("RS256", "k1")
    assert isinstance(key, RSAKey)
    issuer.keys = [key]
    claims = {"iss": issuer.url, "aud": AUDIENCE, "exp": NOW_S + 60}
    for secret in (key.as_pem(private=False), json.dumps(key.as_dict(private=False)).encode(), b"k1"):
        forged = hmac_jwt(secret, claims, kid="k1")
        assert await refused(identifier, bearer(forged), known) == "invalid_token"
    for alg in ("none", "None", "NONE", "", "HS256", "ES256", "Ed25519", "EdDSA", "RS512"):
        assert await refused(identifier, bearer(raw_jwt({"alg": alg, "kid": "k1"}, claims)), known) == "invalid_token"
    assert (await identifier.identify(bearer(issuer.token(alg="RS256")), known, NOW)).key_id == "oi_1"


async def test_key_brought_along_in_the_header_is_not_believed(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    mine = a_key("ES256", "k1")
    for header in ({"jwk": mine.as_dict(private=False)}, {"jku": "http://127.0.0.1:9/jwks"}, {"kid": None}):
        assert await refused(identifier, bearer(issuer.token(key=mine, header=header)), known) == "invalid_token"


async def test_changed_part_of_a_token_is_refused(
    identifier: Identifier, issuer: LoopbackIssuer, known: Credentials
) -> None:
    head, body, signature = issuer.token().split(".")
    other = issuer.token(sub="somebody-else").split(".")
    for text in (f"{head}.{other[1]}.{signature}", f"{head}.{body}.{other[2]}", f"{head}.{body}.", f"{head}.{body}.AA",
                 f"{head}.{body}={'.'}{signature}", f"{head}.{body}.{signature}="):  # fmt: skip
        assert await refused(identifier, bearer(text), known) == "invalid_token"


async def test_issuer_of_one_tenant_cannot_speak_for_another(identifier: Identifier, issuer: LoopbackIssuer) -> None:
    async with LoopbackIssuer() as other:
        known = credentials_of(issuer.registered(), other.registered("oi_2", tenant_id="tenant-b"))
        forged = issuer.token(iss=other.url)  # same key id, another issuer's name
        assert await refused(identifier, bearer(forged), known) == "invalid_token"
        other.keys = issuer.keys  # even the same key speaks at each issuer only for that issuer
        for from_issuer, tenant_id in ((issuer, "tenant-a"), (other, "tenant-b")):
            later = NOW + FRESH_US
            principal = await identifier.identify(bearer(from_issuer.token()), known, later)
            assert principal.tenant_id == tenant_id


async def test_purpose_and_scope_of_a_token_only_narrow(identifier: Identifier, issuer: LoopbackIssuer) -> None:
    stored = credentials_of(issuer.registered(purposes=frozenset({"general", "research", "medical"})))

    async def told(**claims: Any) -> tuple[Any, Any, str]:
        principal = await identifier.identify(bearer(issuer.token(**claims)), stored, NOW)
        return principal.scopes, principal.access.purposes, principal.access.purpose

    everything = frozenset({"general", "research", "medical"})
    assert await told() == (None, everything, "general")
    assert await told(scope="chat usage") == ({"chat", "usage"}, everything, "general")
    assert await told(scope="") == (frozenset(), everything, "general")
    assert await told(scope=["chat"], purpose="research") == ({"chat"}, {"research"}, "research")
    assert await told(purpose=["research", "medical"]) == (None, {"research", "medical"}, "general")
    assert await told(purpose="military research general") == (None, {"research", "general"}, "general")
    assert await told(purpose="military") == (None, frozenset(), "general")
