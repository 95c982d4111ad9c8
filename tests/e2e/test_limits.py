"""Limits as clients and administrators meet them: tokens per minute, raises that end, exact counts, lowered holds, the
view of one's limits, and a Valkey that is away."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.e2e.raw import chat
from tests.e2e.stack import Stack, stack, until
from tests.e2e.tenants import Tenant, Terms, add_model, add_tenant

PACED = Terms(models=("scripted-paced", "scripted-small"))


def client(up: Stack, tenant: Tenant) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=up.base_url, headers=tenant.headers, timeout=60, trust_env=False)


async def admin(up: Stack, method: str, path: str, body: Any = None) -> Any:
    headers = {"authorization": f"Bearer {up.up['admin_key']}"}
    async with httpx.AsyncClient(base_url=str(up.up["admin_url"]), headers=headers, trust_env=False) as asking:
        answer = await asking.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json()


async def whole_minute(need_s: float) -> None:
    left_s = 60 - time.time() % 60
    if left_s < need_s:
        await asyncio.sleep(left_s)


def limit(answer: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in answer["limits"] if one["limit"] == name)
    return found


def level(answer: Any, name: str, of: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in limit(answer, name)["levels"] if one["name"] == of)
    return found


async def test_tokens_of_a_minute_refuse_what_does_not_fit_and_say_whether_waiting_helps(up: Stack) -> None:
    tenant = await add_tenant(up, PACED)
    await admin(up, "PATCH", f"/tenants/{tenant.tenant_id}", {"tpm": 300})
    await whole_minute(10)
    async with client(up, tenant) as asking:

        async def limited() -> httpx.Response | None:
            answer = await asking.post("/chat/completions", json=chat("scripted-small", max_tokens=400))
            return answer if answer.status_code == 429 else None

        never = await until(limited, 5.0, "tpm does not limit")
        assert never.json()["error"]["code"] == "request_exceeds_minute"
        assert (never.json()["error"]["rule"], never.headers["x-should-retry"]) == ("limit:tenant:tpm", "false")
        assert "retry-after" not in never.headers
        assert never.headers["x-ratelimit-limit-tokens"] == "300"
        answers = [
            await asking.post("/chat/completions", json=chat("scripted-small", max_tokens=150)) for _ in range(9)
        ]
    good, refused = [[one for one in answers if one.status_code == status] for status in (200, 429)]
    assert good and refused
    assert {(one.json()["error"]["code"], one.json()["error"]["rule"]) for one in refused} == {
        ("rate_limit_exceeded", "limit:tenant:tpm")
    }
    assert all(1 <= int(one.headers["retry-after"]) <= 60 for one in refused)


async def test_raise_counts_at_once_and_ends_by_itself(up: Stack) -> None:
    tenant = await add_tenant(up, replace(PACED, tokens_month=10))
    path = f"/tenants/{tenant.tenant_id}/raises"
    ends = datetime.now(UTC) + timedelta(seconds=4)
    body = {"level": "tenant", "limit_name": "tokens_month", "value": 10**6, "reason": "a fair"}
    async with httpx.AsyncClient(base_url=str(up.up["admin_url"]), trust_env=False) as asking:
        headers = {"authorization": f"Bearer {up.up['admin_key']}"}
        endless = await asking.post(path, json=body, headers=headers)
        assert (endless.status_code, endless.json()["error"]["param"]) == (400, "ends_at")
    async with client(up, tenant) as asking:

        async def asked() -> int:
            return (await asking.post("/chat/completions", json=chat("scripted-small", max_tokens=1))).status_code

        assert await asked() == 429
        made = await admin(up, "POST", path, {**body, "ends_at": ends.isoformat()})

        async def passed() -> bool | None:
            return True if await asked() == 200 else None

        await until(passed, 3.0, "the raise does not count")
        told = level((await asking.get("/limits")).json(), "tokens_month", "tenant")
        assert (told["set"], told["limit"], told["raise"]["raise_id"]) == (10, 10**6, made["raise_id"])
        await asyncio.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 0.2)
        assert await asked() == 429
        told = level((await asking.get("/limits")).json(), "tokens_month", "tenant")
        assert (told["limit"], told["raise"], told["remaining"]) == (10, None, 0)
    record = (await admin(up, "GET", f"/audit?tenant={tenant.tenant_id}&verb=api:raise:create"))["data"]
    assert [entry["object"] for entry in record] == [made["raise_id"]]


async def test_prompt_is_counted_exactly_where_only_its_bound_is_too_much(up: Stack) -> None:
    await add_model(up, "counted-small", served_model="scripted-small", counts=True)
    words = "four" * 1_000  # 4,000 bytes: 1,000 tokens
    sent = chat("counted-small", max_tokens=10, messages=[{"role": "user", "content": words}])
    tenant = await add_tenant(up, Terms(models=("counted-small", "scripted-small"), tokens_month=1_100))
    async with client(up, tenant) as asking:
        assert (await asking.post("/chat/completions", json={**sent, "model": "scripted-small"})).status_code == 429
        answer = await asking.post("/chat/completions", json=sent)
        assert answer.status_code == 200, answer.text
        row = await up.row(answer.headers["x-request-id"])
        assert row["held_tokens"] == row["prompt_tokens"] + 10 == answer.json()["usage"]["prompt_tokens"] + 10
        assert (await asking.post("/chat/completions", json=sent)).status_code == 429


async def test_hold_of_a_stream_shrinks_to_what_can_still_be_used(up: Stack) -> None:
    tenant = await add_tenant(up, replace(PACED, tokens_month=10_000))
    words = "four" * 1_000
    sent = chat("scripted-paced", max_tokens=40, stream=True, messages=[{"role": "user", "content": words}])
    async with client(up, tenant) as asking, asking.stream("POST", "/chat/completions", json=sent) as stream:
        chunks = stream.aiter_bytes()  # kept: the stream ends with it
        await anext(chunks)
        row = await up.row(stream.headers["x-request-id"], final=False)
        assert row["held_tokens"] > 4_000

        async def shrunk() -> int | None:
            use, holds = await up.counters(tenant.tenant_id)
            return use["held_tokens"] if holds == 1 and use["held_tokens"] < 2_000 else None

        assert await until(shrunk, 3.0, "the hold stays large") == 1_000 + 4 + 3 + 40


async def test_limits_are_told_at_every_level_and_looking_holds_nothing(up: Stack) -> None:
    tenant = await add_tenant(up, replace(PACED, tokens_month=50_000, rpm=100))
    await whole_minute(5)
    async with client(up, tenant) as asking:
        assert (await asking.post("/chat/completions", json=chat("scripted-small", max_tokens=5))).status_code == 200
        await up.no_holds(tenant.tenant_id)
        mine = (await asking.get("/limits")).json()
        again = (await asking.get("/limits")).json()
        assert [one["levels"] for one in mine["limits"]] == [one["levels"] for one in again["limits"]]
        assert (await asking.get("/limits?x=1")).status_code == 400
    rows = await up.fetch("SELECT prompt_tokens + completion_tokens AS n FROM journal WHERE tenant_id = $1 AND"
                          " state = 'settled'", tenant.tenant_id)  # fmt: skip
    told = level(mine, "tokens_month", "tenant")
    assert (told["used"], told["held"], told["remaining"]) == (rows[0]["n"], 0, 50_000 - rows[0]["n"])
    assert limit(mine, "tokens_month")["binds"] == limit(mine, "rpm")["binds"] == "tenant"
    assert level(mine, "rpm", "tenant")["remaining"] == 99
    assert level(mine, "concurrency", "tenant")["held"] == 0
    theirs = await admin(up, "GET", f"/tenants/{tenant.tenant_id}/limits")
    assert level(theirs, "tokens_month", "tenant") == told


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose Valkey a test may stop."""
    with stack(tmp_path_factory.mktemp("fragile") / "data") as running:
        yield running


async def test_stopped_valkey_is_replaced_by_the_book_until_it_goes_on(fragile: Stack) -> None:
    tenant = await add_tenant(fragile, Terms(tokens_month=400))
    sent = chat("scripted-small", max_tokens=5)
    valkey = fragile.pid("valkey")

    async def served(kind: str) -> httpx.Response | None:
        ready = await asking.get(f"{fragile.root}/readyz")
        if ready.status_code != 200 or ("degraded" in ready.json()) != (kind == "book"):
            return None
        answer = await asking.post("/chat/completions", json=sent)
        return answer if answer.status_code in (200, 429) else None

    async with client(fragile, tenant) as asking:
        assert (await asking.post("/chat/completions", json=sent)).status_code == 200
        os.kill(valkey, signal.SIGSTOP)
        try:
            statuses = [(await until(lambda: served("book"), 15.0, "the book does not take over")).status_code]
            while statuses[-1] == 200:
                statuses.append((await asking.post("/chat/completions", json=sent)).status_code)
            assert statuses[-1] == 429  # the budget goes on where it was
        finally:
            os.kill(valkey, signal.SIGCONT)
        await until(lambda: served("valkey"), 15.0, "Valkey does not take over")
    spent = await fragile.fetch(
        "SELECT sum(prompt_tokens + completion_tokens)::bigint AS n FROM journal WHERE tenant_id = $1",
        tenant.tenant_id,
    )
    assert 0 < spent[0]["n"] <= 400
