"""What is revoked is refused by every gateway within a second of its commit, and ends within five where it runs."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.tenancy.parties import LocalParties
from loadtests.licence.revoke import silence
from tests.e2e.raw import Answer, Listening, Wire, chat, connected, exchange, request
from tests.e2e.replicas import replicas
from tests.e2e.stack import Stack, until
from tests.e2e.tenants import Tenant, Terms, add_licence, add_tenant, known
from tests.licences import a_licence

EFFECTIVE_S_MAX = 1.0
ENDED_S_MAX = 5.0
USED = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
SLOW = "scripted-slow"


@pytest.fixture(scope="session")
def three(up: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Listening]]:
    """The stack's own gateway and two more on the same stores."""
    with replicas(up, 2, tmp_path_factory.mktemp("replicas") / "gateway") as more:
        yield [up, *more]


async def _all_serve(three: Sequence[Listening], tenant: Tenant, model: str = "scripted-small") -> None:
    for gateway in three:

        async def serves(gateway: Listening = gateway) -> bool | None:
            return (await exchange(gateway, request(tenant, chat(model, max_tokens=2)))).status == 200 or None

        await until(serves, 3.0, "a gateway does not serve the tenant")


async def _commit(up: Stack, statement: str, *arguments: object) -> float:
    """Run `statement`; the monotonic time of its commit."""
    connection = await up.connect()
    try:
        await connection.execute(statement, *arguments)
        return time.monotonic()
    finally:
        await connection.close()


async def _refused_everywhere(three: Sequence[Listening], tenant: Tenant, since: float) -> list[Answer]:
    """The first refusal of each gateway; every one came within a second of `since`."""

    async def refused(gateway: Listening) -> Answer:
        while True:
            answer = await exchange(gateway, request(tenant, chat(max_tokens=2)))
            if answer.status != 200 and answer.error["code"] != "revoked":  # that one was under way
                return answer
            assert time.monotonic() - since <= EFFECTIVE_S_MAX
            await asyncio.sleep(0.02)

    answers = await asyncio.gather(*(refused(gateway) for gateway in three))
    assert time.monotonic() - since <= EFFECTIVE_S_MAX
    return answers


REVOKE_KEY = "UPDATE api_key SET revoked_at = now() WHERE key_id = $1"
REVOKE_LICENCE = "UPDATE licence SET revoked_at = now() WHERE licence_id = $1"


async def test_revoked_key_is_refused_by_three_gateways_within_one_second(
    up: Stack, three: Sequence[Listening]
) -> None:
    tenant = await add_tenant(up)
    await _all_serve(three, tenant)
    since = await _commit(up, REVOKE_KEY, tenant.key_id)
    for answer in await _refused_everywhere(three, tenant, since):
        assert (answer.status, answer.error["code"]) == (401, "key_revoked")


async def test_revoked_licence_is_refused_by_three_gateways_and_named(up: Stack, three: Sequence[Listening]) -> None:
    tenant = await add_tenant(up)
    await _all_serve(three, tenant)
    since = await _commit(up, REVOKE_LICENCE, tenant.licence_id)
    for answer in await _refused_everywhere(three, tenant, since):
        assert (answer.status, answer.error["code"]) == (403, "licence_revoked")
        assert answer.error["rule"] == f"{tenant.licence_id}/g1"
        assert answer.error["licence"] == f"{tenant.licence_id}@1"
        assert answer.error["cure"]


async def test_revocation_needs_no_notification(up: Stack, three: Sequence[Listening]) -> None:
    tenant = await add_tenant(up)
    await _all_serve(three, tenant)
    connection = await up.connect()
    try:
        async with silence(connection):
            since = await _commit(up, REVOKE_LICENCE, tenant.licence_id)
            answers = await _refused_everywhere(three, tenant, since)
    finally:
        await connection.close()
    assert {(answer.status, answer.error["code"]) for answer in answers} == {(403, "licence_revoked")}


async def _subcontractor(up: Stack, parent: Tenant) -> Tenant:
    """A tenant whose only licence is cut from `parent`'s."""
    child = await add_tenant(up, Terms(ends=timedelta(days=20)), name="sub")
    licence_id = f"a-{child.tenant_id}"  # of two that are revoked, the first by id is told
    now = datetime.now(UTC)
    grant = {"id": "g1", "models": ["scripted-small"], "actions": ["chat"]}
    document = a_licence(
        child.tenant_id, licence_id, [grant], now - timedelta(minutes=1), now + timedelta(days=9),
        issuer=parent.tenant_id, parent={"licence_id": parent.licence_id, "version": 1},
    )  # fmt: skip
    connection = await up.connect()
    try:
        await LocalParties(up.data_dir).store(connection, document)
        await connection.execute(REVOKE_LICENCE, child.licence_id)
    finally:
        await connection.close()
    found = Tenant(child.tenant_id, child.key, child.key_id, licence_id)
    await known(up, found)
    return found


async def test_revoking_the_parent_licence_takes_its_children_along(up: Stack, three: Sequence[Listening]) -> None:
    parent = await add_tenant(up, delegation={"allowed": True, "max_depth": 1, "to": []})
    child = await _subcontractor(up, parent)
    await _all_serve(three, child)
    since = await _commit(up, REVOKE_LICENCE, parent.licence_id)
    for answer in await _refused_everywhere(three, child, since):
        assert (answer.status, answer.error["code"]) == (403, "licence_revoked")
        assert answer.error["licence"] == f"{child.licence_id}@1"
        assert parent.tenant_id not in answer.body.decode() and parent.licence_id not in answer.body.decode()


async def _begun(gateway: Listening, tenant: Tenant, held: contextlib.AsyncExitStack) -> tuple[Wire, str]:
    """A stream that has delivered something, and its request id."""
    wire = await held.enter_async_context(connected(gateway))
    await wire.send(request(tenant, chat(SLOW, stream=True)))
    status, headers = await wire.head()
    assert status == 200
    await wire.reader.readuntil(b"\n\n")
    return wire, headers["x-request-id"]


async def _ended(wire: Wire) -> tuple[dict[str, Any], float]:
    """The last event of a stream that is ended from the other side, and when its body ended."""
    async with asyncio.timeout(ENDED_S_MAX + 2):
        text = await wire.reader.readuntil(b"\r\n0\r\n\r\n")
    events = [line[6:] for line in text.split(b"\n") if line.startswith(b"data: ")]
    last: dict[str, Any] = json.loads(events[-1])
    return last, time.monotonic()


@pytest.mark.parametrize("what", ["key", "licence"])
async def test_running_streams_end_within_five_seconds_and_are_metered(
    up: Stack, three: Sequence[Listening], what: str
) -> None:
    tenant = await add_tenant(up, Terms(models=(SLOW,)))
    await _all_serve(three, tenant, SLOW)
    async with contextlib.AsyncExitStack() as held:
        begun = [await _begun(gateway, tenant, held) for gateway in three]
        statement, argument = (REVOKE_KEY, tenant.key_id) if what == "key" else (REVOKE_LICENCE, tenant.licence_id)
        since = await _commit(up, statement, argument)
        ends = await asyncio.gather(*(_ended(wire) for wire, _ in begun))
    for (_, request_id), (last, ended) in zip(begun, ends, strict=True):
        assert ended - since <= ENDED_S_MAX
        assert last["error"]["code"] == "revoked"
        assert last["error"]["licence"] == f"{tenant.licence_id}@1"
        row = await up.row(request_id)
        assert (row["state"], row["outcome"], row["usage_source"]) == ("settled", "revoked", "witness")
        record = await up.witness(SLOW, f"{request_id}-1")
        assert record["state"] == "aborted"
        assert {name: row[name] for name in USED} == {name: record[name] for name in USED}
        assert row["completion_tokens"] > 0 and row["micro_yen"] > 0
    await up.no_holds(tenant.tenant_id)


async def test_running_stream_of_another_tenant_goes_on(up: Stack, three: Sequence[Listening]) -> None:
    ended, other = [await add_tenant(up, Terms(models=(SLOW,))) for _ in range(2)]
    await _all_serve(three, ended, SLOW)
    await _all_serve(three, other, SLOW)
    async with contextlib.AsyncExitStack() as held:
        wire, _ = await _begun(up, other, held)
        mine, _ = await _begun(up, ended, held)
        await _commit(up, REVOKE_LICENCE, ended.licence_id)
        assert (await _ended(mine))[0]["error"]["code"] == "revoked"
        for _ in range(3):
            assert b'"error"' not in await wire.reader.readuntil(b"\n\n")


async def test_new_version_that_takes_the_model_away_ends_what_runs(up: Stack, three: Sequence[Listening]) -> None:
    tenant = await add_tenant(up, Terms(models=(SLOW,)))
    await _all_serve(three, tenant, SLOW)
    async with contextlib.AsyncExitStack() as held:
        wire, request_id = await _begun(three[1], tenant, held)
        connection = await up.connect()
        try:
            terms = Terms(models=("scripted-small",))
            await add_licence(up, connection, tenant.tenant_id, tenant.licence_id, terms, version=2)
        finally:
            await connection.close()
        last, _ = await _ended(wire)
    assert last["error"]["code"] == "revoked"
    assert (await up.row(request_id))["outcome"] == "revoked"


async def test_licence_that_ends_while_a_stream_runs_ends_it_too(up: Stack) -> None:
    tenant = await add_tenant(up, Terms(models=(SLOW,), ends=timedelta(seconds=5)))
    async with contextlib.AsyncExitStack() as held:
        wire, request_id = await _begun(up, tenant, held)
        last, _ = await _ended(wire)
    assert (last["error"]["code"], last["error"]["licence"]) == ("revoked", f"{tenant.licence_id}@1")
    row = await up.row(request_id)
    assert (row["outcome"], row["state"]) == ("revoked", "settled")
    answer = await exchange(up, request(tenant, chat(SLOW)))
    assert (answer.status, answer.error["code"]) == (403, "licence_expired")


HIDE_MODELS = "UPDATE api_key SET models = '{other}' WHERE key_id = $1"
TAKE_SCOPES = "UPDATE api_key SET scopes = '{usage}' WHERE key_id = $1"


@pytest.mark.parametrize(
    ("statement", "code"),
    [(REVOKE_KEY, "key_revoked"), (REVOKE_LICENCE, "licence_revoked"), (HIDE_MODELS, "model_not_found"),
     (TAKE_SCOPES, "insufficient_scope")],
    ids=["key", "licence", "models", "scopes"],
)  # fmt: skip
async def test_body_that_trickles_in_is_judged_when_it_is_complete(up: Stack, statement: str, code: str) -> None:
    tenant = await add_tenant(up)
    data = request(tenant, chat(max_tokens=2))
    async with connected(up) as wire:
        await wire.send(data[:-20])
        since = await _commit(up, statement, tenant.licence_id if statement == REVOKE_LICENCE else tenant.key_id)
        await _refused_everywhere([up], tenant, since)
        await wire.send(data[-20:])
        answer = await wire.answer()
    assert answer.error["code"] == code


async def test_end_names_what_had_permitted_the_request_not_another_licence(up: Stack) -> None:
    tenant = await add_tenant(up, Terms(models=(SLOW,)))
    spare = f"a-{tenant.tenant_id}"  # the first by id, revoked before anything runs
    connection = await up.connect()
    try:
        async with connection.transaction():  # no gateway ever sees it in force
            await add_licence(up, connection, tenant.tenant_id, spare, Terms(models=(SLOW,)))
            await connection.execute(REVOKE_LICENCE, spare)
    finally:
        await connection.close()
    async with contextlib.AsyncExitStack() as held:
        wire, _ = await _begun(up, tenant, held)
        await _commit(up, REVOKE_LICENCE, tenant.licence_id)
        last, _ = await _ended(wire)
    assert (last["error"]["code"], last["error"]["licence"]) == ("revoked", f"{tenant.licence_id}@1")
    assert last["error"]["rule"] == f"{tenant.licence_id}/g1"
