"""Two tenants: neither learns of the other, and each is refused for its own reasons only."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.identity.keys import _crc, new_key
from gateway.identity.secrets import load_peppers
from tests.e2e.raw import Answer, chat, exchange, request
from tests.e2e.stack import Stack, until
from tests.e2e.tenants import Tenant, Terms, add_key, add_tenant

REVOCATION_S_MAX = 1.0


@pytest_asyncio.fixture
async def alice(up: Stack) -> Tenant:
    """May use scripted-small."""
    return await add_tenant(up, Terms(models=("scripted-small",), rpm=1_000), name="alice")


@pytest_asyncio.fixture
async def bob(up: Stack) -> Tenant:
    """May use scripted-paced."""
    return await add_tenant(up, Terms(models=("scripted-paced",), rpm=500), name="bob")


async def _get(up: Stack, tenant: Tenant, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=up.base_url, headers=tenant.headers, trust_env=False) as client:
        return await client.get(path)


async def _ask(up: Stack, tenant: Tenant, model: str, **fields: Any) -> Answer:
    return await exchange(up, request(tenant, chat(model, max_tokens=2, **fields)))


def _without_ids(answer: Answer | httpx.Response) -> bytes:
    body = answer.body if isinstance(answer, Answer) else answer.content
    return body.replace(answer.headers["x-request-id"].encode(), b"-")


async def test_models_are_only_ones_own(up: Stack, alice: Tenant, bob: Tenant) -> None:
    for tenant, model in ((alice, "scripted-small"), (bob, "scripted-paced")):
        listed = (await _get(up, tenant, "/models")).json()
        assert [entry["id"] for entry in listed["data"]] == [model]
    assert (await _get(up, alice, "/models/scripted-small")).status_code == 200
    assert (await _get(up, bob, "/models/scripted-small")).status_code == 404


@pytest.mark.parametrize("language", ["ja", "en"])
async def test_a_model_of_others_and_one_that_does_not_exist_read_the_same_byte_for_byte(
    up: Stack, alice: Tenant, bob: Tenant, language: str
) -> None:
    assert (await _ask(up, bob, "scripted-paced")).status == 200
    for stream in (False, True):
        foreign, unknown = [
            await exchange(up, request(alice, chat(model, stream=stream), accept_language=language))
            for model in ("scripted-paced", "no-such-model")
        ]
        assert foreign.status == unknown.status == 404
        assert foreign.error["code"] == "model_not_found"
        assert _without_ids(foreign) == _without_ids(unknown)
        ours = {"x-request-id", "date"}
        assert {k: v for k, v in foreign.headers.items() if k not in ours} == {
            k: v for k, v in unknown.headers.items() if k not in ours
        }
    one, other = await _get(up, alice, "/models/scripted-paced"), await _get(up, alice, "/models/no-such-model")
    assert _without_ids(one) == _without_ids(other) and one.status_code == other.status_code == 404


async def test_usage_and_counters_show_only_ones_own_requests(up: Stack, alice: Tenant, bob: Tenant) -> None:
    answers = [await _ask(up, alice, "scripted-small") for _ in range(3)] + [await _ask(up, bob, "scripted-paced")]
    assert [answer.status for answer in answers] == [200] * 4
    for tenant, count, model, rpm in ((alice, 3, "scripted-small", 1_000), (bob, 1, "scripted-paced", 500)):
        usage = (await _get(up, tenant, "/usage?group_by=model,key")).json()
        assert usage["totals"]["requests"] == count
        assert [(row["model"], row["key"]) for row in usage["rows"]] == [(model, tenant.key_id)]
        last = await _ask(up, tenant, model)
        assert last.headers["x-ratelimit-limit-requests"] == str(rpm)
        assert last.headers["x-ratelimit-remaining-requests"] == str(rpm - count - 1)


async def test_nothing_that_is_sent_names_another_tenant(up: Stack, alice: Tenant, bob: Tenant) -> None:
    busy = asyncio.create_task(_ask(up, bob, "scripted-paced"))
    seen = [
        await _ask(up, alice, "scripted-small"),
        await _ask(up, alice, "scripted-small", stream=True),
        await _ask(up, alice, "scripted-paced"),
        await _ask(up, alice, "scripted-small", priority=1),
    ]
    queries = [await _get(up, alice, path) for path in ("/models", "/usage", "/usage?group_by=key,model,outcome")]
    theirs = [
        bob.tenant_id,
        bob.key,
        bob.key_id,
        bob.licence_id,
        "scripted-paced",
        (await busy).headers["x-request-id"],
    ]
    texts = [f"{answer.headers}{answer.body!r}" for answer in seen]
    texts += [f"{dict(answer.headers)}{answer.text}" for answer in queries]
    for text in texts:
        assert [name for name in theirs if name in text] == []


async def test_limits_of_one_do_not_bind_the_other(up: Stack) -> None:
    poor = await add_tenant(up, Terms(tokens_month=1, rpm=1))
    rich = await add_tenant(up)
    refused = await _ask(up, poor, "scripted-small")
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
    assert (await _ask(up, rich, "scripted-small")).status == 200


async def test_revoked_key_is_refused_within_one_second_and_other_keys_go_on(up: Stack, alice: Tenant) -> None:
    connection = await up.connect()
    try:
        spare, _ = await add_key(up, connection, alice.tenant_id)
        await connection.execute("UPDATE api_key SET revoked_at = now() WHERE key_id = $1", alice.key_id)
        revoked = time.monotonic()
    finally:
        await connection.close()

    async def refused() -> Answer | None:
        answer = await _ask(up, alice, "scripted-small")
        return answer if answer.status == 401 else None

    answer = await until(refused, REVOCATION_S_MAX, "the revoked key still passes")
    assert time.monotonic() - revoked <= REVOCATION_S_MAX
    assert answer.error["code"] == "key_revoked"
    other = Tenant(alice.tenant_id, spare, "", alice.licence_id)
    assert (await _ask(up, other, "scripted-small")).status == 200


async def test_expired_key_is_refused_and_one_that_expires_later_is_not(up: Stack, alice: Tenant) -> None:
    now = datetime.now(UTC)
    connection = await up.connect()
    try:
        async with connection.transaction():  # the gateway knows both, or neither
            late, _ = await add_key(up, connection, alice.tenant_id, now - timedelta(seconds=1))
            soon, _ = await add_key(up, connection, alice.tenant_id, now + timedelta(hours=1))
    finally:
        await connection.close()

    async def told() -> Answer | None:
        answer = await _ask(up, Tenant("", late, "", ""), "scripted-small")
        return answer if answer.error["code"] != "invalid_api_key" else None

    answer = await until(told, 2.0, "the gateway does not know the key")
    assert (answer.status, answer.error["code"]) == (401, "key_expired")
    assert (await _ask(up, Tenant("", soon, "", ""), "scripted-small")).status == 200


async def test_wrong_secret_of_a_known_key_and_an_unknown_key_read_the_same(up: Stack, alice: Tenant) -> None:
    pepper = load_peppers(up.data_dir).current
    unknown = new_key("test", pepper).text
    stolen_id = f"sk_test_{alice.key_id}_{unknown[-38:-6]}"
    wrong_secret = stolen_id + _crc(stolen_id)
    typo = alice.key[:-1] + ("0" if alice.key[-1] != "0" else "1")
    answers = [await _ask(up, Tenant("", key, "", ""), "scripted-small") for key in (unknown, wrong_secret, typo)]
    assert {answer.status for answer in answers} == {401}
    assert {answer.error["code"] for answer in answers} == {"invalid_api_key"}
    assert len({_without_ids(answer) for answer in answers}) == 1
    assert all("x-ratelimit-limit-requests" not in answer.headers for answer in answers)


DAY = timedelta(days=1)
LICENCES = {
    "expired": (Terms(starts=-2 * DAY, ends=-DAY), "licence_expired"),
    "not-yet": (Terms(starts=DAY, ends=2 * DAY), "licence_not_yet_valid"),
    "action": (Terms(actions=("completion",)), "action_not_licensed"),
}


@pytest.mark.parametrize(("terms", "code"), LICENCES.values(), ids=LICENCES.keys())
async def test_licence_refusal_names_rule_and_licence_and_is_written_down(up: Stack, terms: Terms, code: str) -> None:
    tenant = await add_tenant(up, terms)
    answer = await _ask(up, tenant, "scripted-small")
    assert (answer.status, answer.error["code"]) == (403, code)
    assert answer.error["rule"] == f"{tenant.licence_id}/g1"
    assert answer.error["licence"] == answer.headers["x-sekisho-licence"] == f"{tenant.licence_id}@1"
    assert answer.headers["x-sekisho-outcome"] == "refused_licence"
    row = await up.row(answer.headers["x-request-id"])
    assert (row["state"], row["outcome"], row["code"], row["rule_id"]) == (
        "voided", "refused_licence", code, answer.error["rule"],
    )  # fmt: skip
    assert (row["micro_yen"], row["prompt_tokens"], row["completion_tokens"]) == (0, 0, 0)
    if code != "action_not_licensed":
        assert (await _get(up, tenant, "/models")).json()["data"] == []


async def test_licence_that_is_revoked_refuses_within_one_second(up: Stack, alice: Tenant) -> None:
    assert (await _ask(up, alice, "scripted-small")).status == 200
    connection = await up.connect()
    try:
        await connection.execute("UPDATE licence SET revoked_at = now() WHERE licence_id = $1", alice.licence_id)
    finally:
        await connection.close()

    async def refused() -> Answer | None:
        answer = await _ask(up, alice, "scripted-small")
        return answer if answer.status != 200 and answer.error["code"] != "revoked" else None

    answer = await until(refused, REVOCATION_S_MAX, "the revoked licence still permits")
    assert (answer.status, answer.error["code"]) == (403, "licence_revoked")
