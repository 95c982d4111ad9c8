"""One `Idempotency-Key`: one engine attempt, one charge, and the same bytes for whoever of the tenant asks again."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
import pytest_asyncio

from gateway.repeats.answer import ANSWER_BYTES_MAX
from gateway.tenancy.keystore import KeyFiles
from tests.e2e.conftest import ALL_MODELS, ENDLESS_MODEL
from tests.e2e.raw import chat, connected, exchange, request
from tests.e2e.replicas import Replica, replica
from tests.e2e.sdk import usage_totals
from tests.e2e.stack import Stack, until
from tests.e2e.tenants import Tenant, Terms, add_key, add_tenant, known
from tests.kill.failpoints import LOG_VARIABLE, VARIABLE

SMALL, PACED = "scripted-small", "scripted-paced"
ASK: list[Any] = [{"role": "user", "content": "Who may pass?"}]
ALL_CLASSES = {"purposes": ["general", "research"], "data_classes": ["public", "restricted", "secret"]}


def a_key() -> str:
    """A key that nobody has used."""
    return f"order-{uuid4()}"


def keyed(tenant: Tenant, key: str, **headers: str) -> dict[str, str]:
    """The headers of a request under `key`."""
    return {**tenant.headers, "idempotency-key": key, **headers}


async def rows_of(up: Stack, tenant: Tenant) -> list[dict[str, Any]]:
    """The tenant's journal once every row of it is final, oldest first."""

    async def final() -> list[dict[str, Any]] | None:
        rows = await up.fetch("SELECT * FROM journal WHERE tenant_id = $1 ORDER BY request_id", tenant.tenant_id)
        return rows if rows and all(row["settled_at"] for row in rows) else None

    return await until(final, 15.0, "a row of the tenant stays open")


async def attempts(up: Stack, model: str, request_ids: list[str]) -> list[str]:
    """Those of the requests that the engine ever saw."""
    seen = [await up.witness(model, f"{request_id}-1") for request_id in request_ids]
    return [request_id for request_id, record in zip(request_ids, seen, strict=True) if record["state"] != "unknown"]


def refused(answer: httpx.Response) -> tuple[int, str, str | None]:
    return answer.status_code, answer.json()["error"]["code"], answer.headers.get("x-should-retry")


@pytest_asyncio.fixture
async def partner(up: Stack) -> Tenant:
    """May state purposes and classes, and has a site of its own."""
    tenant = await add_tenant(up, Terms(models=ALL_MODELS, grant=ALL_CLASSES))
    connection = await up.connect()
    await connection.execute("UPDATE tenant SET sites = '{local}' WHERE tenant_id = $1", tenant.tenant_id)
    await connection.close()
    return tenant


@pytest_asyncio.fixture
async def sdk(up: Stack, tenant: Tenant) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client."""
    async with openai.AsyncOpenAI(base_url=up.base_url, api_key=tenant.key, max_retries=0, timeout=30) as client:
        yield client


@pytest.mark.parametrize("streamed", [False, True])
async def test_repeat_through_the_official_client_gets_the_same_bytes_for_one_charge(
    up: Stack, tenant: Tenant, sdk: openai.AsyncOpenAI, streamed: bool
) -> None:
    key = a_key()
    answers = [
        await sdk.chat.completions.with_raw_response.create(
            model=SMALL, messages=ASK, max_tokens=9, stream=streamed, extra_headers={"Idempotency-Key": key}
        )
        for _ in range(3)
    ]
    bodies = [await answer.http_response.aread() for answer in answers]
    assert bodies[0] == bodies[1] == bodies[2] != b""
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert ids[0].encode() in bodies[0] and len(set(ids)) == 3
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", "true"]
    assert [answer.headers.get("x-sekisho-original-request-id") for answer in answers] == [None, ids[0], ids[0]]
    for name in ("content-type", "x-sekisho-region", "x-sekisho-licence", "x-sekisho-outcome"):
        assert len({answer.headers.get(name) for answer in answers}) == 1, name
    assert await attempts(up, SMALL, ids) == ids[:1]
    first, *others = await rows_of(up, tenant)
    assert (str(first["request_id"]), first["state"], first["micro_yen"] > 0) == (ids[0], "settled", True)
    assert [(row["state"], row["outcome"], row["code"], row["micro_yen"]) for row in others] == [
        ("voided", "completed", "idempotent_replay", 0)
    ] * 2
    assert (await usage_totals(up, tenant))["micro_yen"] == first["micro_yen"]


async def test_stream_is_read_again_by_the_official_client(sdk: openai.AsyncOpenAI) -> None:
    async def chunks(key: str) -> list[Any]:
        stream = await sdk.chat.completions.create(
            model=SMALL, messages=ASK, n=2, max_tokens=7, stream=True, stream_options={"include_usage": True},
            extra_headers={"Idempotency-Key": key},
        )  # fmt: skip
        return [chunk async for chunk in stream]

    key = a_key()
    first = await chunks(key)
    assert first[-1].usage is not None and first == await chunks(key)
    assert first[0].id != (await chunks(a_key()))[0].id


async def test_fifty_concurrent_duplicates_on_two_gateways_are_one_attempt_and_one_charge(
    up: Stack, tenant: Tenant, tmp_path: Path
) -> None:
    key = a_key()
    with replica(up, tmp_path / "second.log") as second:

        async def ask(number: int) -> httpx.Response:
            root = (up.base_url, second.base_url)[number % 2]
            body = chat(PACED, max_tokens=20, stream=False)
            return await client.post(f"{root}/chat/completions", json=body, headers=keyed(tenant, key))

        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=40, trust_env=False, limits=limits) as client:
            answers = await asyncio.gather(*map(ask, range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(await attempts(up, PACED, ids)) == 1
    charged = [row for row in await rows_of(up, tenant) if row["micro_yen"]]
    assert len(charged) == 1
    assert (await usage_totals(up, tenant))["micro_yen"] == charged[0]["micro_yen"]


async def test_another_request_under_the_same_key_is_refused_whatever_differs(
    up: Stack, partner: Tenant, client: httpx.AsyncClient
) -> None:
    key, body = a_key(), chat(max_tokens=3, temperature=0)

    async def ask(body: Any, path: str = "/chat/completions", **headers: str) -> httpx.Response:
        return await client.post(path, json=body, headers=keyed(partner, key, **headers))

    assert (await ask(body)).status_code == 200
    assert (await ask(dict(reversed(body.items())))).headers["idempotent-replayed"] == "true"
    for answer in (
        await ask({**body, "max_tokens": 4}), await ask({**body, "temperature": 0.0}),
        await ask({**body, "stream": True}),
        await ask({"model": SMALL, "prompt": "x", "max_tokens": 3}, "/completions"),
        await ask(body, **{"x-sekisho-purpose": "research"}), await ask(body, **{"x-sekisho-data-class": "secret"}),
    ):  # fmt: skip
        assert refused(answer) == (409, "idempotency_key_reused", "false")
    assert len([row for row in await rows_of(up, partner) if row["micro_yen"]]) == 1


async def test_another_request_is_refused_while_the_first_one_runs(up: Stack, tenant: Tenant) -> None:
    key = a_key()
    headers = keyed(tenant, key)
    async with httpx.AsyncClient(base_url=up.base_url, timeout=30, trust_env=False) as client:
        first = asyncio.create_task(client.post("/chat/completions", json=chat(PACED, max_tokens=30), headers=headers))
        await asyncio.sleep(0.2)
        other = await client.post("/chat/completions", json=chat(PACED, max_tokens=31), headers=headers)
        assert refused(other)[:2] == (409, "idempotency_key_reused")
        assert (await first).status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
async def test_secret_answer_is_not_kept_and_never_charged_again(
    up: Stack, partner: Tenant, client: httpx.AsyncClient, streamed: bool
) -> None:
    headers = keyed(partner, a_key(), **{"x-sekisho-data-class": "secret"})

    async def served() -> httpx.Response | None:
        body = chat(max_tokens=3, stream=streamed)
        answer = await client.post("/chat/completions", json=body, headers=headers)
        return None if answer.status_code == 403 else answer  # the gateway does not know the tenant's own site yet

    assert (await until(served, 3.0, "the own site does not serve")).status_code == 200
    again = await served()
    assert again is not None and refused(again) == (409, "result_not_kept", "false")
    charged = [row for row in await rows_of(up, partner) if row["micro_yen"]]
    assert len(charged) == 1 and str(charged[0]["request_id"]) in again.json()["error"]["message"]
    kept = await up.fetch("SELECT answer FROM idempotency_key WHERE tenant_id = $1", partner.tenant_id)
    assert kept == [{"answer": None}]


@pytest.mark.parametrize(
    "terms",
    [Terms(grant={"zero_retention": True}), Terms()],
    ids=["grant", "contract"],
)
async def test_zero_retention_keeps_no_answer(up: Stack, client: httpx.AsyncClient, terms: Terms) -> None:
    data = {"handling_mode": "zero_retention", "processing_countries": ["JP"], "training_use": False}
    parts: dict[str, Any] = {} if terms.grant else {"personal_data": data}
    tenant = await add_tenant(up, terms, **parts)
    headers = keyed(tenant, a_key())
    assert (await client.post("/chat/completions", json=chat(max_tokens=3), headers=headers)).status_code == 200
    again = await client.post("/chat/completions", json=chat(max_tokens=3), headers=headers)
    assert refused(again) == (409, "result_not_kept", "false")


async def test_tenants_with_the_same_key_never_meet(up: Stack, client: httpx.AsyncClient) -> None:
    key = a_key()
    one, other = await add_tenant(up), await add_tenant(up)
    answers = [
        await client.post("/chat/completions", json=chat(max_tokens=3), headers=keyed(tenant, key))
        for tenant in (one, other)
    ]
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, None]
    for answer in answers:
        assert answer.status_code == 200
    assert answers[0].json()["id"] != answers[1].json()["id"]


async def test_credentials_of_a_tenant_share_its_keys_and_none_reads_what_it_may_not_ask(
    up: Stack, tenant: Tenant, client: httpx.AsyncClient
) -> None:
    connection = await up.connect()
    others = [await add_key(up, connection, tenant.tenant_id) for _ in range(2)]
    await connection.execute("UPDATE api_key SET models = '{scripted-paced}' WHERE key_id = $1", others[1][1])
    await connection.close()
    second, narrow = (Tenant(tenant.tenant_id, text, key_id, tenant.licence_id) for text, key_id in others)
    await known(up, narrow)
    key, body = a_key(), chat(max_tokens=3)
    first = await client.post("/chat/completions", json=body, headers=keyed(tenant, key))
    again = await client.post("/chat/completions", json=body, headers=keyed(second, key))
    assert again.content == first.content and again.headers["idempotent-replayed"] == "true"
    assert [row["key_id"] for row in await rows_of(up, tenant)] == [tenant.key_id, second.key_id]
    hidden = await client.post("/chat/completions", json=body, headers=keyed(narrow, key))
    assert (hidden.status_code, hidden.json()["error"]["code"]) == (404, "model_not_found")


async def test_request_that_ended_uncharged_gives_its_key_back(
    up: Stack, tenant: Tenant, client: httpx.AsyncClient
) -> None:
    headers = keyed(tenant, a_key())
    for _ in range(2):  # upstream failed before the first byte
        answer = await client.post("/chat/completions", json=chat("scripted-refuse"), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    poor = await add_tenant(up, Terms(tokens_month=1))
    headers = keyed(poor, a_key())
    answer = await client.post("/chat/completions", json=chat(max_tokens=3), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
    connection = await up.connect()
    await connection.execute("UPDATE tenant SET tokens_month = 1000000 WHERE tenant_id = $1", poor.tenant_id)
    await connection.close()

    async def runs() -> httpx.Response | None:
        answer = await client.post("/chat/completions", json=chat(max_tokens=3), headers=headers)
        return answer if answer.status_code == 200 else None

    assert "idempotent-replayed" not in (await until(runs, 3.0, "the key is not free")).headers


async def test_client_that_left_a_stream_gets_no_second_charge_and_no_answer(up: Stack, tenant: Tenant) -> None:
    key = a_key()
    body = chat(PACED, stream=True, max_tokens=60)
    async with connected(up) as wire:
        await wire.send(request(tenant, body, idempotency_key=key))
        assert (await wire.head())[0] == 200
        await wire.reader.readuntil(b"\n\n")
        wire.reset()
    again = await exchange(up, request(tenant, body, idempotency_key=key))
    assert (again.status, again.error["code"]) == (409, "result_not_kept")
    assert len([row for row in await rows_of(up, tenant) if row["state"] == "settled"]) == 1


async def test_answer_beyond_the_limit_is_delivered_whole_and_not_kept(
    up: Stack, tenant: Tenant, client: httpx.AsyncClient
) -> None:
    headers, body = keyed(tenant, a_key()), chat(ENDLESS_MODEL, n=2, max_tokens=4_000, stream=True)
    answer = await client.post("/chat/completions", json=body, headers=headers)
    assert len(answer.content) > ANSWER_BYTES_MAX and answer.content.endswith(b"data: [DONE]\n\n")
    again = await client.post("/chat/completions", json=body, headers=headers)
    assert refused(again) == (409, "result_not_kept", "false")


async def test_key_means_nothing_after_its_time(up: Stack, tenant: Tenant, client: httpx.AsyncClient) -> None:
    headers = keyed(tenant, a_key())
    first = await client.post("/chat/completions", json=chat(max_tokens=3), headers=headers)
    connection = await up.connect()
    await connection.execute("UPDATE idempotency_key SET expires_at = now() WHERE tenant_id = $1", tenant.tenant_id)
    await connection.close()
    again = await client.post("/chat/completions", json=chat(max_tokens=3), headers=headers)
    assert again.status_code == 200 and again.json()["id"] != first.json()["id"]


async def test_destroyed_tenant_key_leaves_nothing_to_read_and_nothing_to_charge(
    up: Stack, tenant: Tenant, client: httpx.AsyncClient
) -> None:
    headers = keyed(tenant, a_key())
    first = await client.post("/chat/completions", json=chat(max_tokens=3), headers=headers)
    stored = await up.fetch("SELECT answer FROM idempotency_key WHERE tenant_id = $1", tenant.tenant_id)
    assert b"checkpoint" not in stored[0]["answer"] and first.json()["id"].encode() not in stored[0]["answer"]
    assert KeyFiles(up.data_dir).destroy(tenant.tenant_id) == 1
    again = await client.post("/chat/completions", json=chat(max_tokens=3), headers=headers)
    assert refused(again) == (409, "result_not_kept", "false")
    fresh = await client.post("/chat/completions", json=chat(max_tokens=3), headers=keyed(tenant, a_key()))
    assert fresh.status_code == 200


@pytest.mark.parametrize(
    "value",
    ["", " ", "x" * 256, "鍵", "caf\u00e9", "tab\there", '"', '"open', '"a"b"', '"a";v=1',
     "one\r\nidempotency-key: two"],
)  # fmt: skip
async def test_key_that_is_none_is_named_and_charged_nothing(up: Stack, tenant: Tenant, value: str) -> None:
    # An empty value is left out of the helper's request, so it is written by hand.
    head = request(tenant, chat(max_tokens=3)).replace(
        b"\r\n\r\n", b"\r\nidempotency-key: " + value.encode("utf-8") + b"\r\n\r\n", 1
    )
    answer = await exchange(up, head)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_value", "Idempotency-Key")


async def test_quoted_and_bare_form_are_one_key(up: Stack, tenant: Tenant, client: httpx.AsyncClient) -> None:
    key = f"~ {uuid4()} !"
    for number, written in enumerate((key, f'"{key}"')):
        answer = await client.post(
            "/chat/completions", json=chat(max_tokens=3), headers={**tenant.headers, "idempotency-key": written}
        )
        assert (answer.headers.get("idempotent-replayed") == "true") == bool(number)


def dying(up: Stack, folder: Path, point: str, kind: str) -> AbstractContextManager[Replica]:
    """A gateway that dies when its first request comes to `point`."""
    settings = {VARIABLE: f"{point}:1:{kind}", LOG_VARIABLE: str(folder / "deaths.jsonl")}
    return replica(up, folder / f"{point}.log", "tests.kill.failpoints", settings)


async def until_dead(gateway: Replica, body: Any, headers: Mapping[str, str]) -> bytes:
    """What a client got of its answer before the gateway died."""
    got = b""
    async with httpx.AsyncClient(base_url=gateway.base_url, timeout=30, trust_env=False) as client:
        with pytest.raises(httpx.TransportError):
            async with client.stream("POST", "/chat/completions", json=body, headers=headers) as answer:
                async for part in answer.aiter_raw():
                    got += part
    assert await asyncio.to_thread(gateway.process.wait, 10) == -signal.SIGKILL
    return got


BEFORE = ("after_claim", "after_reserve", "after_open_durable", "before_first_byte")


async def test_gateway_that_died_before_it_delivered_neither_blocks_nor_loses_the_retry(
    up: Stack, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async def retried(gateway: Replica, point: str) -> None:
        tenant = await add_tenant(up)
        headers, body = keyed(tenant, a_key()), chat(max_tokens=5)
        assert await until_dead(gateway, body, headers) == b"", point
        answer = await client.post("/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200 and "idempotent-replayed" not in answer.headers, (point, answer.text)
        rows = await rows_of(up, tenant)
        assert [row["state"] for row in rows] == ["voided", "settled"], point
        assert str(rows[1]["request_id"]) == answer.headers["x-request-id"], point
        repeat = await client.post("/chat/completions", json=body, headers=headers)
        assert repeat.content == answer.content and repeat.headers["idempotent-replayed"] == "true", point
        await up.no_holds(tenant.tenant_id, 10.0)

    with ExitStack() as held:
        gateways = [held.enter_context(dying(up, tmp_path, point, "whole")) for point in BEFORE]
        await asyncio.gather(*map(retried, gateways, BEFORE))


async def test_gateway_that_died_while_it_delivered_is_charged_once(
    up: Stack, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async def retried(gateway: Replica, *, kept: bool) -> None:
        tenant = await add_tenant(up, Terms(models=ALL_MODELS))
        headers, body = keyed(tenant, a_key()), chat(PACED, max_tokens=20, stream=not kept)
        assert bool(await until_dead(gateway, body, headers)) is not kept
        again = await client.post("/chat/completions", json=body, headers=headers)
        if kept:  # it was stored before its mark: the client gets what it has paid for
            assert again.status_code == 200 and again.headers["idempotent-replayed"] == "true"
        else:
            assert refused(again) == (409, "result_not_kept", "false")
        delivered = [row for row in await rows_of(up, tenant) if row["state"] in ("settled", "recovered")]
        assert len(delivered) == 1 and delivered[0]["micro_yen"] > 0

    with (
        dying(up, tmp_path, "after_mark_before_write", "whole") as one,
        dying(up, tmp_path, "mid_stream", "stream") as other,
    ):
        await asyncio.gather(retried(one, kept=True), retried(other, kept=False))
