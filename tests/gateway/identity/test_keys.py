"""API keys: form, checksum, MAC; refusals that tell nothing they should not; no wait for anything."""

import json
import string
from ipaddress import ip_network
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.identity.credentials import ApiKey, Credentials, Presented
from gateway.identity.keys import NewKey, Pepper, Prefix, key_id_of, mac_of, matches, new_key
from gateway.identity.secrets import load_peppers, write_private
from gateway.identity.service import Identifier
from tests.gateway.identity.conftest import Make, refused
from tests.gateway.identity.making import NOW, an_access, bearer, credentials_of, raw_jwt, stored_key

PEPPER = Pepper("p1", b"\x01" * 32)


@pytest.fixture
def key(identifier: Identifier, tmp_path: Path) -> NewKey:
    return new_key("live", load_peppers(tmp_path).current)


async def test_new_key_identifies_its_credential(identifier: Identifier, key: NewKey) -> None:
    assert key.text.startswith(f"sk_live_{key.key_id}_")
    stored = stored_key(key, project_id="p", expires_at=NOW + 1)
    principal = await identifier.identify(bearer(key.text), credentials_of(stored), NOW)
    assert principal.access == stored.access
    assert (principal.scopes, principal.expires_at, principal.subject) == (None, NOW + 1, "")


async def test_key_in_force_is_identified_without_a_wait(identifier: Identifier, key: NewKey) -> None:
    with pytest.raises(StopIteration):  # the first step of the coroutine is its last: nothing was awaited
        identifier.identify(bearer(key.text), credentials_of(stored_key(key)), NOW).send(None)


async def test_key_made_with_an_older_pepper_still_identifies(tmp_path: Path, make_identifier: Make) -> None:
    peppers = {"current": "p2", "peppers": {"p1": "01" * 32, "p2": "02" * 32}}
    write_private(tmp_path / "secrets" / "pepper.json", json.dumps(peppers))
    key = new_key("live", PEPPER)
    principal = await make_identifier().identify(bearer(key.text), credentials_of(stored_key(key)), NOW)
    assert principal.key_id == key.key_id


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "bearer\u00a0x", "Bearer a, Bearer b"]
)
async def test_missing_or_doubled_credentials(identifier: Identifier, authorization: str | None) -> None:
    assert await refused(identifier, Presented(authorization), credentials_of()) == "missing_api_key"


async def test_wrong_secret_and_unknown_key_read_the_same(identifier: Identifier, key: NewKey, tmp_path: Path) -> None:
    stranger = new_key("live", load_peppers(tmp_path).current)
    wrong = ApiKey(an_access(key.key_id), mac_of(stranger.text, PEPPER), key.pepper_id)
    assert await refused(identifier, bearer(key.text), credentials_of(wrong)) == "invalid_api_key"
    assert await refused(identifier, bearer(stranger.text), credentials_of(stored_key(key))) == "invalid_api_key"


async def test_state_of_a_key_is_told_only_to_the_holder_of_the_whole_key(identifier: Identifier, key: NewKey) -> None:
    networks = (ip_network("192.0.2.0/24"),)
    states: dict[str, dict[str, Any]] = {
        "key_revoked": {"revoked_at": NOW, "expires_at": NOW, "networks": networks},
        "key_expired": {"expires_at": NOW, "networks": networks},
        "address_not_allowed": {"networks": networks},
    }
    for code, fields in states.items():
        assert await refused(identifier, bearer(key.text), credentials_of(stored_key(key, **fields))) == code
        forged = ApiKey(an_access(key.key_id, **fields), bytes(32), key.pepper_id)
        assert await refused(identifier, bearer(key.text), credentials_of(forged)) == "invalid_api_key"


async def test_key_is_good_until_the_moment_of_its_end(identifier: Identifier, key: NewKey) -> None:
    later = credentials_of(stored_key(key, expires_at=NOW + 1, revoked_at=NOW + 1))
    assert (await identifier.identify(bearer(key.text), later, NOW)).key_id == key.key_id
    assert await refused(identifier, bearer(key.text), later, NOW + 1) == "key_revoked"


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("192.0.2.255", True), ("::ffff:192.0.2.1", True), ("192.0.3.0", False), ("2001:db8::ffff", True),
     ("2001:db9::1", False), ("fe80::1%eth0", True), ("", False), ("unix", False), ("192.0.2.1.evil", False)],
)  # fmt: skip
async def test_networks_hold_for_both_families_and_mapped_addresses(
    identifier: Identifier, key: NewKey, address: str, allowed: bool
) -> None:
    networks = tuple(ip_network(text) for text in ("192.0.2.0/24", "2001:db8::/32", "fe80::/10"))
    stored = credentials_of(stored_key(key, networks=networks))
    presented = bearer(key.text, address=address)
    if allowed:
        assert (await identifier.identify(presented, stored, NOW)).key_id == key.key_id
    else:
        assert await refused(identifier, presented, stored) == "address_not_allowed"


async def test_empty_list_of_networks_allows_no_address(identifier: Identifier, key: NewKey) -> None:
    assert await refused(identifier, bearer(key.text), credentials_of(stored_key(key, networks=()))) == (
        "address_not_allowed"
    )


async def test_administrators_key_is_no_key_of_the_data_plane(identifier: Identifier, tmp_path: Path) -> None:
    key = new_key("live", load_peppers(tmp_path).current, "ska")
    assert key.text.startswith("ska_live_")
    assert (key_id_of(key.text, "ska"), key_id_of(key.text)) == (key.key_id, None)
    assert await refused(identifier, bearer(key.text), credentials_of(stored_key(key))) == "invalid_api_key"


async def test_key_under_another_scheme_is_refused(identifier: Identifier, key: NewKey) -> None:
    presented = Presented(f"DPoP {key.text}", address=bearer("").address)
    assert await refused(identifier, presented, credentials_of(stored_key(key))) == "invalid_api_key"


async def test_validity_is_judged_again_by_the_newest_credentials(identifier: Identifier, key: NewKey) -> None:
    principal = await identifier.identify(bearer(key.text), credentials_of(stored_key(key)), NOW)
    states: list[tuple[dict[str, Any], bool]] = [
        ({}, True), ({"revoked_at": NOW + 2, "expires_at": NOW + 2}, True), ({"revoked_at": NOW + 1}, False),
        ({"expires_at": NOW + 1}, False), ({"tenant_id": "tenant-b"}, False),
    ]  # fmt: skip
    for fields, valid in states:
        stored = credentials_of(stored_key(key, **fields))
        assert identifier.still_valid(principal, stored, NOW + 1) is valid, fields
    assert not identifier.still_valid(principal, credentials_of(), NOW + 1)


async def test_uses_are_told_once(identifier: Identifier, key: NewKey) -> None:
    stored = credentials_of(stored_key(key))
    await identifier.identify(bearer(key.text), stored, NOW)
    await identifier.identify(bearer(key.text), stored, NOW + 5)
    assert await refused(identifier, bearer("sk_x"), stored) == "invalid_api_key"
    assert (identifier.uses(), identifier.uses()) == ({key.key_id: NOW + 5}, {})


@pytest.mark.parametrize("prefix", get_args(Prefix))
@settings(max_examples=2_000)
@given(st.integers(0, 62), st.sampled_from(string.ascii_letters + string.digits + "_-é"))
def test_one_changed_character_never_passes(prefix: Prefix, position: int, character: str) -> None:
    key = new_key("live", PEPPER, prefix)
    position %= len(key.text)
    changed = key.text[:position] + character + key.text[position + 1 :]
    if changed != key.text:
        assert key_id_of(changed, prefix) is None or not matches(changed, key, {"p1": PEPPER})


@settings(max_examples=2_000)
@given(st.text(max_size=120))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    assert key_id_of(text) is None


@pytest.mark.parametrize(
    "text",
    ["é" * 100, "x" * 30_000, "." * 30_000, "a.b.c", "ﾄｰｸﾝ.ﾄｰｸﾝ.ﾄｰｸﾝ", "\ud800.\ud800.\ud800", "A" * 20_000 + ".A.A",
     "eyJ.eyJ.e", raw_jwt({"alg": "Ed25519"}, {"iss": "x"}), raw_jwt([], 1), raw_jwt({"alg": ["none"]}, {})],
    ids=range(11),
)  # fmt: skip
async def test_no_text_makes_identification_fail(identifier: Identifier, text: str) -> None:
    assert await refused(identifier, bearer(text), Credentials({}, {}, {})) in ("invalid_api_key", "invalid_token")
