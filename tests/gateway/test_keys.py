"""API keys: form, checksum, MAC; refusals that tell nothing they should not."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.faults import Fault
from gateway.identity.keys import NewKey, Pepper, key_id_of, mac_of, matches, new_key
from gateway.identity.service import ApiKey, Principal, identify

PEPPER = Pepper("p1", b"\x01" * 32)
OTHER = Pepper("p2", b"\x02" * 32)
PEPPERS = {"p1": PEPPER, "p2": OTHER}
NOW = 1_000_000


def stored(key: NewKey, expires_at: int | None = None, revoked_at: int | None = None) -> dict[str, ApiKey]:
    row = ApiKey(key.key_id, "tenant-a", key.mac, key.pepper_id, "general", "restricted", expires_at, revoked_at)
    return {key.key_id: row}


def refused(authorization: str | None, keys: dict[str, ApiKey]) -> str:
    with pytest.raises(Fault) as caught:
        identify(authorization, keys, PEPPERS, NOW)
    return caught.value.code.name


def test_new_key_identifies_its_tenant() -> None:
    key = new_key("live", PEPPER)
    assert key.text.startswith(f"sk_live_{key.key_id}_")
    assert identify(f"Bearer {key.text}", stored(key), PEPPERS, NOW) == Principal(
        "tenant-a", key.key_id, "general", "restricted"
    )


def test_key_made_with_an_older_pepper_still_identifies() -> None:
    key = new_key("live", OTHER)
    assert identify(f"bearer {key.text}", stored(key), PEPPERS, NOW).key_id == key.key_id


def test_missing_credentials() -> None:
    assert [refused(value, {}) for value in (None, "", "Bearer", "Bearer ", "Basic abc")] == ["missing_api_key"] * 5


def test_wrong_secret_and_unknown_key_read_the_same() -> None:
    key, stranger = new_key("live", PEPPER), new_key("live", PEPPER)
    wrong = ApiKey(key.key_id, "tenant-a", mac_of(stranger.text, PEPPER), "p1", "", "restricted", None, None)
    assert refused(f"Bearer {key.text}", {key.key_id: wrong}) == "invalid_api_key"
    assert refused(f"Bearer {stranger.text}", stored(key)) == "invalid_api_key"


def test_revoked_and_expired_are_told_only_to_the_holder_of_the_whole_key() -> None:
    key = new_key("live", PEPPER)
    assert refused(f"Bearer {key.text}", stored(key, revoked_at=NOW)) == "key_revoked"
    assert refused(f"Bearer {key.text}", stored(key, expires_at=NOW)) == "key_expired"
    assert identify(f"Bearer {key.text}", stored(key, expires_at=NOW + 1), PEPPERS, NOW).key_id == key.key_id
    forged = ApiKey(key.key_id, "tenant-a", bytes(32), "p1", "", "restricted", None, NOW)
    assert refused(f"Bearer {key.text}", {key.key_id: forged}) == "invalid_api_key"


@settings(max_examples=2_000)
@given(st.integers(0, 62), st.sampled_from(string.ascii_letters + string.digits + "_-é"))
def test_one_changed_character_never_passes(position: int, character: str) -> None:
    key = new_key("live", PEPPER)
    position %= len(key.text)
    changed = key.text[:position] + character + key.text[position + 1 :]
    if changed != key.text:
        assert key_id_of(changed) is None or not matches(changed, key.mac, "p1", PEPPERS)


@settings(max_examples=2_000)
@given(st.text(max_size=120))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    assert key_id_of(text) is None
