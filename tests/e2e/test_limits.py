"""Limits through the whole product: prompts counted exactly where their bound is refused, holds that shrink in a
stream, tokens of a minute, raises with an end, and what `GET /v1/limits` tells of it."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.e2e.raw import chat
from tests.e2e.stack import Stack, until
from tests.e2e.tenants import INPUT_PRICE, OUTPUT_PRICE, Tenant, Terms, add_model, add_tenant

COUNTED, UNCOUNTED = "scripted-small", "scripted-paced"  # only the first has a `tokenize_url`
LONG = "一二三四五六七八九十" * 60  # 1,800 bytes
SAID = [{"role": "user", "content": LONG}]


def client_of(up: Stack, tenant: Tenant) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=up.base_url, headers=tenant.headers, timeout=30, trust_env=False)


async def prompt_of(up: Stack, said: list[dict[str, str]] = SAID) -> int:
    """The engine's own count of what is said."""
    async with client_of(up, await add_tenant(up)) as client:
        answer = await client.post("/chat/completions", json=chat(COUNTED, messages=said, max_tokens=2))
    prompt: int = answer.json()["usage"]["prompt_tokens"]
    return prompt


@pytest.mark.parametrize("unit", ["tokens_month", "micro_yen_month", "tpm"])
async def test_prompt_is_counted_exactly_where_its_bound_is_refused(up: Stack, unit: str) -> None:
    prompt = await prompt_of(up)
    assert prompt < 1_000 < len(LONG.encode())
    exact = prompt * INPUT_PRICE + 4 * OUTPUT_PRICE if unit == "micro_yen_month" else prompt + 4
    for limit, status in ((exact, 200), (exact - 1, 429)):
        tenant = await limited(up, unit, limit)
        async with client_of(up, tenant) as client:
            answer = await client.post("/chat/completions", json=chat(COUNTED, messages=SAID, max_tokens=4))
        assert answer.status_code == status, answer.text
        if status == 200:
            row = await up.row(answer.headers["x-request-id"])
            assert row["held_tokens"] == prompt + 4 >= row["prompt_tokens"] + row["completion_tokens"]
        else:
            assert answer.json()["error"]["rule"] == f"limit:tenant:{unit}"
            assert answer.headers["x-should-retry"] == "false"


async def test_engine_that_counts_no_prompts_leaves_the_refusal_as_it_is(up: Stack) -> None:
    await add_model(up, UNCOUNTED)
    tenant = await add_tenant(up, Terms((UNCOUNTED,), tokens_month=1_500))
    async with client_of(up, tenant) as client:
        answer = await client.post("/chat/completions", json=chat(UNCOUNTED, messages=SAID, max_tokens=4))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")


async def test_hold_of_a_stream_shrinks_to_the_engines_own_count_while_it_runs(up: Stack) -> None:
    await add_model(up, UNCOUNTED)
    longer = [{"role": "user", "content": 3 * LONG}]
    prompt, tenant = await prompt_of(up, longer), await add_tenant(up, Terms((UNCOUNTED,)))
    body = chat(UNCOUNTED, messages=longer, max_tokens=60, stream=True)
    async with client_of(up, tenant) as client, client.stream("POST", "/chat/completions", json=body) as answer:
        lines = answer.aiter_lines()  # kept: without it the stream would be closed
        await anext(lines)

        async def shrunk() -> int | None:
            use, count = await up.counters(tenant.tenant_id)
            return use["held_tokens"] if count and use["held_tokens"] < len(3 * LONG.encode()) else None

        assert await until(shrunk, 2.0, "the hold stays as large as it was") == prompt + 60
        limits = await rows(client)
        assert limits["tokens_month"]["held"] == prompt + 60
    await up.no_holds(tenant.tenant_id)


async def test_tokens_of_a_minute_are_given_back_when_the_request_ends(up: Stack) -> None:
    left_s = 60 - time.time() % 60
    if left_s < 8:
        await asyncio.sleep(left_s)
    tenant = await limited(up, "tpm", 3_000)
    body = chat(COUNTED, max_tokens=1_000)
    async with client_of(up, tenant) as client:
        answer = await client.post("/chat/completions", json={**body, "stop": "\n"})
        used = answer.json()["usage"]["total_tokens"]
        assert answer.headers["x-ratelimit-limit-tokens"] == "3000"
        assert int(answer.headers["x-ratelimit-reset-tokens"].removesuffix("s")) <= 60

        async def settled() -> int | None:
            row = (await rows(client))["tpm"]
            return row["used"] if row["used"] < 1_000 else None

        assert await until(settled, 3.0, "the minute keeps the whole bound") == used
        never = await client.post("/chat/completions", json={**body, "max_tokens": 3_001})
    assert (never.status_code, never.json()["error"]["code"]) == (429, "request_exceeds_minute")
    assert never.headers["x-should-retry"] == "false"
    assert "retry-after" not in never.headers


async def test_raise_holds_from_the_next_request_on_and_ends_by_itself(up: Stack) -> None:
    tenant = await limited(up, "concurrency", 0)
    body = chat(COUNTED, max_tokens=1)
    async with client_of(up, tenant) as client:
        assert (await client.post("/chat/completions", json=body)).status_code == 429
        ends_at = datetime.now(UTC) + timedelta(seconds=4)
        async with httpx.AsyncClient(trust_env=False) as admin:
            made = await admin.post(
                f"{up.up['admin_url']}/tenants/{tenant.tenant_id}/raises",
                headers={"authorization": f"Bearer {up.up['admin_key']}"},
                json={
                    "level": "tenant",
                    "limit_name": "concurrency",
                    "value": 2,
                    "ends_at": ends_at.isoformat(),
                    "reason": "a test",
                },
            )
        assert made.status_code == 201, made.text

        async def passes() -> bool | None:
            return (await client.post("/chat/completions", json=body)).status_code == 200 or None

        await until(passes, 2.0, "the raise is not known")
        told = (await rows(client))["concurrency"]
        assert (told["limit"], told["set"], told["raise"]["raise_id"]) == (2, 0, made.json()["raise_id"])

        async def refused() -> bool | None:
            return (await client.post("/chat/completions", json=body)).status_code == 429 or None

        await until(refused, 8.0, "the raise does not end")
        assert datetime.now(UTC) >= ends_at - timedelta(milliseconds=50)


async def limited(up: Stack, limit: str, value: int) -> Tenant:
    """A tenant with that one limit, which the gateway knows."""
    tenant = await add_tenant(up, Terms((COUNTED,)))
    connection = await up.connect()
    await connection.execute(f"UPDATE tenant SET {limit} = $2 WHERE tenant_id = $1", tenant.tenant_id, value)  # noqa: S608 # a column of the test's own
    await connection.close()
    async with client_of(up, tenant) as client:

        async def known() -> bool | None:
            found = (await rows(client)).get(limit)
            return (found is not None and found["limit"] == value) or None

        await until(known, 3.0, "the gateway does not know the limit")
    return tenant


async def rows(client: httpx.AsyncClient) -> dict[str, Any]:
    """The tenant's own limits as they stand."""
    answer = await client.get("/limits")
    assert answer.status_code == 200, answer.text
    return {row["limit"]: row["levels"][0] for row in answer.json()["limits"]}
