"""DPoP: the proof's every part is checked, and a proof is taken once by all processes together."""

import asyncio
import secrets

import pytest
from joserfc.jwk import Key
from redis.asyncio import Redis

from gateway.identity.credentials import OAuthClient
from gateway.identity.dpop import AGE_S_MAX, normal_url, origin_of, read_proof
from gateway.identity.jose import Rejected
from gateway.identity.service import Identifier
from tests.conftest import Stores
from tests.gateway.identity.conftest import Make, refused
from tests.gateway.identity.issuing import token_for
from tests.gateway.identity.making import (
    BASE,
    NO_VALKEY,
    NOW,
    NOW_S,
    SECOND,
    URL,
    Holder,
    a_client,
    a_key,
    bearer,
    credentials_of,
    dpop,
    raw_jwt,
)  # fmt: skip

# RFC 9449 §4.1 and §7.1.
_HEAD = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJo"
    "RjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
)
TOKEN_PROOF = (
    f"{_HEAD}.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2Vu"
    "IiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
)
RESOURCE_PROOF = (
    f"{_HEAD}.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90"
    "ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9."
    "2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)
RESOURCE_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
RFC_JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def a_bound_client() -> tuple[OAuthClient, Key, Holder]:
    key = a_key("ES256")
    return a_client(key, "dpop"), key, Holder.make()


def test_proofs_of_the_rfc_verify() -> None:
    assert read_proof(TOKEN_PROOF, "POST", "https://server.example.com/token", 1562262616, None) == (
        RFC_JKT, "-BwC3ESc6acc2lTc",
    )  # fmt: skip
    assert read_proof(
        RESOURCE_PROOF, "GET", "https://resource.example.org/protectedresource", 1562262618, RESOURCE_TOKEN
    ) == (RFC_JKT, "e1j3V_bKic8-LAEB")
    with pytest.raises(Rejected):
        read_proof(RESOURCE_PROOF, "GET", "https://resource.example.org/protectedresource", 1562262618, "another")


@pytest.mark.parametrize("alg", ["ES256", "Ed25519", "PS256", "RS256"])
async def test_bound_token_with_its_proof_identifies(identifier: Identifier, alg: str) -> None:
    client, key, holder = a_bound_client()
    token = await token_for(identifier, client, key, holder)
    other = Holder.make(alg)
    bound = await token_for(identifier, client, key, other)
    for text, prover in ((token, holder), (bound, other)):
        principal = await identifier.identify(dpop(text, prover.proof(text)), credentials_of(client), NOW)
        assert principal.key_id == client.access.credential_id


async def test_bound_token_as_bearer_is_refused(identifier: Identifier) -> None:
    client, key, holder = a_bound_client()
    token = await token_for(identifier, client, key, holder)
    stored = credentials_of(client)
    assert await refused(identifier, bearer(token), stored) == "token_not_bound"
    assert await refused(identifier, bearer(token, dpop=holder.proof(token)), stored) == "token_not_bound"


async def test_unbound_token_is_refused_where_binding_is_demanded_or_claimed(identifier: Identifier) -> None:
    key, holder = a_key("ES256"), Holder.make()
    free = a_client(key)
    token = await token_for(identifier, free, key)
    assert await refused(identifier, dpop(token, holder.proof(token)), credentials_of(free)) == "invalid_token"
    bound = a_client(key, "dpop")
    demanded = credentials_of(type(free)(free.access, free.jwks, bound.binding))
    assert await refused(identifier, bearer(token), demanded) == "token_not_bound"


def wrong_proofs(holder: Holder, token: str) -> dict[str, str | None]:
    good = holder.proof(token)
    head, body, signature = good.split(".")
    private = holder.key.as_dict(private=True)
    public = holder.key.as_dict(private=False)
    claims = {"jti": "a", "htm": "POST", "htu": URL, "iat": NOW_S}
    return {
        "missing": None,
        "empty": "",
        "two proofs": f"{good}, {holder.proof(token)}",
        "other method": holder.proof(token, htm="GET"),
        "method in lower case": holder.proof(token, htm="post"),
        "other path": holder.proof(token, htu=f"{BASE}/v1/completions"),
        "other host": holder.proof(token, htu="https://gateway.example.jp.evil/v1/chat/completions"),
        "other scheme": holder.proof(token, htu=URL.replace("https", "http")),
        "other port": holder.proof(token, htu=URL.replace(".jp", ".jp:8443")),
        "user in URL": holder.proof(token, htu=URL.replace("https://", "https://u@")),
        "no URL": holder.proof(token, htu="x"),
        "other token": holder.proof(token + "x"),
        "no token": holder.proof(None),
        "no iat": holder.proof(token, iat=None),
        "too old": holder.proof(token, iat=NOW_S - AGE_S_MAX - 1),
        "from the future": holder.proof(token, iat=NOW_S + AGE_S_MAX + 1),
        "iat of a text": holder.proof(token, iat=str(NOW_S)),
        "huge iat": holder.proof(token, iat=10**400),
        "no jti": holder.proof(token, jti=None),
        "empty jti": holder.proof(token, jti=""),
        "endless jti": holder.proof(token, jti="j" * 257),
        "another type": holder.proof(token, header={"typ": "at+jwt"}),
        "no type": holder.proof(token, header={"typ": None}),
        "no key": holder.proof(token, header={"jwk": None}),
        "private key": holder.proof(token, header={"jwk": private}),
        "other key in header": holder.proof(token, header={"jwk": Holder.make().key.as_dict(private=False)}),
        "key of another kind": holder.proof(token, header={"jwk": a_key("RS256").as_dict(private=False)}),
        "key for encryption": holder.proof(token, header={"jwk": {**public, "use": "enc"}}),
        "symmetric key": raw_jwt({"typ": "dpop+jwt", "alg": "HS256", "jwk": {"kty": "oct", "k": "AA"}}, claims),
        "unsigned": raw_jwt({"typ": "dpop+jwt", "alg": "none", "jwk": public}, claims),
        "off the curve": raw_jwt({"typ": "dpop+jwt", "alg": "ES256", "jwk": {**public, "x": public["y"]}}, claims),
        "key of strange types": raw_jwt({"typ": "dpop+jwt", "alg": "ES256", "jwk": {"kty": ["EC"], "x": 1}}, claims),
        "cut signature": f"{head}.{body}.{signature[:-2]}",
        "proof of another holder": Holder.make().proof(token),
        "huge": "A" * 20_000 + ".A.A",
        "no ASCII": f"é{good}",
    }


async def test_proof_that_does_not_fit_in_any_part_is_refused(make_identifier: Make) -> None:
    identifier = make_identifier(failures_per_minute=1_000)
    client, key, holder = a_bound_client()
    token = await token_for(identifier, client, key, holder)
    for what, proof in wrong_proofs(holder, token).items():
        assert await refused(identifier, dpop(token, proof), credentials_of(client)) == "dpop_proof_invalid", what


async def test_proof_is_good_at_both_ends_of_its_window(identifier: Identifier) -> None:
    client, key, holder = a_bound_client()
    token = await token_for(identifier, client, key, holder)
    for iat in (NOW_S - AGE_S_MAX, NOW_S + AGE_S_MAX):
        proof = holder.proof(token, iat=iat, htu="HTTPS://Gateway.Example.JP:443/v1/chat/%63ompletions?q#f")
        assert await identifier.identify(dpop(token, proof), credentials_of(client), NOW)


async def test_used_proof_is_refused_by_every_process_and_for_its_whole_life(make_identifier: Make) -> None:
    first, second = make_identifier(), make_identifier()
    client, key, holder = a_bound_client()
    token = await token_for(first, client, key, holder)
    proof = holder.proof(token, iat=NOW_S + AGE_S_MAX)
    await first.identify(dpop(token, proof), credentials_of(client), NOW)
    for identifier in (first, second):
        for now in (NOW, NOW + 2 * AGE_S_MAX * SECOND):
            assert await refused(identifier, dpop(token, proof), credentials_of(client), now) == "dpop_proof_replayed"


async def test_used_proof_is_remembered_as_long_as_it_could_be_taken(identifier: Identifier, stores: Stores) -> None:
    client, key, holder = a_bound_client()
    token = await token_for(identifier, client, key, holder)
    async with Redis.from_url(stores.valkey_url) as valkey:
        before = set(await valkey.keys("sekisho:dpop:*"))
        await identifier.identify(dpop(token, holder.proof(token)), credentials_of(client), NOW)
        (mark,) = set(await valkey.keys("sekisho:dpop:*")) - before
        assert await valkey.ttl(mark) >= 2 * AGE_S_MAX


async def test_one_of_many_simultaneous_uses_of_a_proof_passes(make_identifier: Make) -> None:
    identifiers = [make_identifier(failures_per_minute=1_000) for _ in range(3)]
    client, key, holder = a_bound_client()
    token = await token_for(identifiers[0], client, key, holder)
    proof = holder.proof(token)
    results = await asyncio.gather(
        *(each.identify(dpop(token, proof), credentials_of(client), NOW) for each in identifiers * 20),
        return_exceptions=True,
    )
    assert sum(not isinstance(result, BaseException) for result in results) == 1


async def test_same_jti_of_two_holders_is_no_replay(identifier: Identifier) -> None:
    client, key, holder = a_bound_client()
    jti = secrets.token_hex(8)
    for prover in (holder, Holder.make()):
        token = await token_for(identifier, client, key, prover)
        await identifier.identify(dpop(token, prover.proof(token, jti=jti)), credentials_of(client), NOW)


async def test_refused_proof_does_not_use_up_its_jti(identifier: Identifier) -> None:
    client, key, holder = a_bound_client()
    token = await token_for(identifier, client, key, holder)
    proof = holder.proof(token)
    wrong = dpop(token, proof, method="PUT")
    assert await refused(identifier, wrong, credentials_of(client)) == "dpop_proof_invalid"
    assert await identifier.identify(dpop(token, proof), credentials_of(client), NOW)


async def test_without_the_replay_set_no_proof_is_taken(make_identifier: Make) -> None:
    identifier, blind = make_identifier(), make_identifier(NO_VALKEY)
    client, key, holder = a_bound_client()
    token = await token_for(identifier, client, key, holder)
    code = await refused(blind, dpop(token, holder.proof(token)), credentials_of(client))
    assert code == "store_unavailable"


async def test_proof_for_a_host_that_is_not_ours_is_refused_whatever_the_request_says(identifier: Identifier) -> None:
    client, key, holder = a_bound_client()
    token = await token_for(identifier, client, key, holder)
    elsewhere = "https://evil.example/v1/chat/completions"
    presented = dpop(token, holder.proof(token, htu=elsewhere), url=elsewhere)
    assert await refused(identifier, presented, credentials_of(client)) == "dpop_proof_invalid"


@pytest.mark.parametrize(
    ("url", "normal"),
    [("HTTPS://EXAMPLE.com:443?q=1#f", "https://example.com/"), ("http://a:80/x", "http://a/x"),
     ("http://a:443/x", "http://a:443/x"), ("https://a/%7Eb%2f%c3%a9", "https://a/~b%2F%C3%A9"),
     ("https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443/"), ("https://u:p@a/", None), ("ftp://a/", None),
     ("https:///x", None), ("https://[::1/", None), ("https://a:99999/", None), ("", None), ("/v1", None)],
)  # fmt: skip
def test_urls_are_normalised_before_they_are_compared(url: str, normal: str | None) -> None:
    assert normal_url(url) == normal
    assert origin_of(url) == (None if normal is None else normal[: normal.index("/", 8)])
