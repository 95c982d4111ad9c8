"""Failed attempts: limited per address over all processes, never in the way of one who holds a good key."""

import asyncio
from pathlib import Path

import pytest

from gateway.faults import Fault
from gateway.identity import shared
from gateway.identity.credentials import Credentials, Presented
from gateway.identity.keys import new_key
from gateway.identity.secrets import load_peppers
from gateway.identity.service import COUNTED, Identifier
from gateway.identity.shared import FailedAttempts
from gateway.limits.scripts import Scripts
from tests.gateway.identity.conftest import Make, refused
from tests.gateway.identity.issuing import token_for
from tests.gateway.identity.making import (
    NO_VALKEY,
    NOW,
    SECOND,
    a_client,
    a_key,
    an_address,
    bearer,
    credentials_of,
    stored_key,
)  # fmt: skip

NOBODY = credentials_of()
MINUTE = 60 * SECOND


async def fail(identifier: Identifier, address: str, times: int, now: int = NOW) -> list[str]:
    return [await refused(identifier, bearer("sk_wrong", address=address), NOBODY, now) for _ in range(times)]


@pytest.mark.parametrize("valkey", ["shared", "away"])
async def test_failures_beyond_the_limit_are_told_to_wait(make_identifier: Make, valkey: str) -> None:
    identifier = make_identifier(failures_per_minute=3) if valkey == "shared" else make_identifier(
        NO_VALKEY, failures_per_minute=3
    )  # fmt: skip
    address = an_address()
    assert await fail(identifier, address, 5) == ["invalid_api_key"] * 3 + ["too_many_failed_attempts"] * 2
    assert await fail(identifier, an_address(), 1) == ["invalid_api_key"]
    assert await fail(identifier, address, 1, NOW + MINUTE - 1) == ["too_many_failed_attempts"]


async def test_refusal_says_how_long_to_wait(make_identifier: Make) -> None:
    identifier, address = make_identifier(failures_per_minute=1), an_address()
    await fail(identifier, address, 1)
    with pytest.raises(Fault) as caught:
        await identifier.identify(bearer("sk_wrong", address=address), NOBODY, NOW)
    assert caught.value.code.status == 429
    assert caught.value.retry_after_s is not None and 1 <= caught.value.retry_after_s <= 60


async def test_limit_holds_over_processes(make_identifier: Make) -> None:
    identifiers, address = [make_identifier(failures_per_minute=6) for _ in range(3)], an_address()
    codes = await asyncio.gather(*(fail(identifier, address, 4) for identifier in identifiers))
    told = [code for each in codes for code in each]
    assert (told.count("invalid_api_key"), told.count("too_many_failed_attempts")) == (6, 6)


async def test_addresses_of_one_ipv6_network_count_together(make_identifier: Make) -> None:
    identifier, network = make_identifier(failures_per_minute=2), an_address()[:-1]
    codes = [(await fail(identifier, f"{network}{number:x}", 1))[0] for number in range(1, 5)]
    assert codes == ["invalid_api_key"] * 2 + ["too_many_failed_attempts"] * 2


async def test_window_of_a_process_alone_ends_after_a_minute(make_identifier: Make) -> None:
    identifier, address = make_identifier(NO_VALKEY, failures_per_minute=1), an_address()
    await fail(identifier, address, 2)
    assert await fail(identifier, address, 1, NOW + MINUTE) == ["invalid_api_key"]


async def test_good_key_from_a_blocked_address_passes(make_identifier: Make, tmp_path: Path) -> None:
    identifier, address = make_identifier(failures_per_minute=1), an_address()
    key = new_key("live", load_peppers(tmp_path).current)
    await fail(identifier, address, 3)
    principal = await identifier.identify(bearer(key.text, address=address), credentials_of(stored_key(key)), NOW)
    assert principal.key_id == key.key_id


async def test_blocked_address_gets_no_signature_checked_but_known_tokens_pass(make_identifier: Make) -> None:
    identifier, address, key = make_identifier(failures_per_minute=1), an_address(), a_key("ES256")
    client = a_client(key)
    stored = credentials_of(client)
    known, fresh = [await token_for(identifier, client, key) for _ in range(2)]
    await identifier.identify(bearer(known), stored, NOW)
    await fail(identifier, address, 2)
    assert await refused(identifier, bearer(fresh, address=address), stored) == "too_many_failed_attempts"
    assert await identifier.identify(bearer(known, address=address), stored, NOW)


async def test_request_without_a_key_or_with_a_lost_one_is_no_guess(make_identifier: Make, tmp_path: Path) -> None:
    identifier, address = make_identifier(failures_per_minute=1), an_address()
    key = new_key("live", load_peppers(tmp_path).current)
    revoked = credentials_of(stored_key(key, revoked_at=NOW))
    for presented, stored, code in (
        (Presented(address=address), NOBODY, "missing_api_key"),
        (bearer(key.text, address=address), revoked, "key_revoked"),
    ):
        assert [await refused(identifier, presented, stored) for _ in range(5)] == [code] * 5
        assert code not in COUNTED
    assert await fail(identifier, address, 1) == ["invalid_api_key"]


async def test_memory_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "ORIGINS_MAX", 8)
    scripts = Scripts(NO_VALKEY)
    failures = FailedAttempts(scripts, 1)
    for number in range(10):
        await failures.count(f"192.0.2.{number}", NOW)
        await failures.count(f"192.0.2.{number}", NOW)
    await scripts.close()
    assert [failures.wait_s(f"192.0.2.{number}", NOW) for number in range(10)] == [0, 0, *[60] * 8]


async def test_credentials_of_nobody_cost_nothing_while_blocked(make_identifier: Make) -> None:
    identifier, address = make_identifier(failures_per_minute=1), an_address()
    await fail(identifier, address, 2)
    coroutine = identifier.identify(bearer("sk_wrong", address=address), Credentials({}, {}, {}), NOW)
    with pytest.raises(Fault):  # without a wait: not even Valkey is asked
        coroutine.send(None)
