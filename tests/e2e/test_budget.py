"""64 clients on one budget: nothing is overspent, and nobody is refused while the budget would have sufficed."""

import asyncio
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uuid_utils

from gateway.faults import Fault
from gateway.limits.holds import Hold, Holds, Release, period_of
from gateway.limits.levels import LimitLevel, Limits
from tests.e2e.raw import chat
from tests.e2e.replicas import replicas
from tests.e2e.stack import Stack
from tests.e2e.tenants import INPUT_PRICE, OUTPUT_PRICE, Tenant, Terms, add_tenant

CLIENTS = 64
REQUESTS_EACH = 5
MAX_TOKENS = 20
FIT_AT_ONCE = 12
# Takes 0.4 s, so that all clients are under way at the same time: without holds they would spend the budget twice over.
ASK = chat("scripted-paced", max_tokens=MAX_TOKENS)
MODELS = ("scripted-small", "scripted-paced")
NEEDS = re.compile(r"needs up to (\d+) .* and (\d+) remain")


def _client(up: Stack, tenant: Tenant) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=CLIENTS)
    return httpx.AsyncClient(base_url=up.base_url, headers=tenant.headers, limits=limits, timeout=60, trust_env=False)


async def _post(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/chat/completions", json={**ASK, **fields})


async def _estimate(up: Stack) -> tuple[int, int]:
    """What the gateway sets aside for `ASK`: tokens and micro-yen."""
    async with _client(up, await add_tenant(up, Terms(models=MODELS))) as client:
        answer = await _post(client)
    row = await up.row(answer.headers["x-request-id"])
    return row["held_tokens"], row["held_micro_yen"]


async def _crowd(client: httpx.AsyncClient) -> list[httpx.Response]:
    """All clients at once, each with its requests one after the other, every second one as a stream."""

    async def one(number: int) -> list[httpx.Response]:
        return [await _post(client, stream=bool((number + turn) % 2)) for turn in range(REQUESTS_EACH)]

    return [answer for answers in await asyncio.gather(*map(one, range(CLIENTS))) for answer in answers]


def _refused_by_the_rule(answers: list[httpx.Response], limit_name: str, needed: int) -> int:
    """How many were refused; each one because what it needed was more than what remained."""
    refused = [answer for answer in answers if answer.status_code != 200]
    for answer in refused:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (429, "insufficient_quota")
        assert error["rule"] == f"limit:tenant:{limit_name}"
        assert answer.headers["x-should-retry"] == "false"
        told = NEEDS.search(error["message"])
        assert told is not None and int(told[1]) == needed > int(told[2]) >= 0
    return len(refused)


async def _spent(up: Stack, tenant: Tenant) -> dict[str, int]:
    rows = await up.fetch(
        "SELECT coalesce(sum(prompt_tokens + completion_tokens), 0)::bigint AS tokens,"
        " coalesce(sum(micro_yen), 0)::bigint AS micro_yen, count(*) FILTER (WHERE settled_at IS NULL) AS unfinished,"
        " count(*) FILTER (WHERE state = 'settled') AS settled FROM journal WHERE tenant_id = $1",
        tenant.tenant_id,
    )
    return {name: int(value) for name, value in rows[0].items()}


@pytest.mark.parametrize("unit", ["tokens_month", "micro_yen_month"])
async def test_64_clients_on_one_budget_overspend_nothing_and_use_it_up(up: Stack, unit: str) -> None:
    needed = dict(zip(("tokens_month", "micro_yen_month"), await _estimate(up), strict=True))[unit]
    limit = FIT_AT_ONCE * needed
    terms = Terms(models=MODELS)
    terms = replace(terms, tokens_month=limit) if unit == "tokens_month" else replace(terms, micro_yen_month=limit)
    tenant = await add_tenant(up, terms)
    column = "tokens" if unit == "tokens_month" else "micro_yen"
    async with _client(up, tenant) as client:
        answers = await _crowd(client)
        refused = _refused_by_the_rule(answers, unit, needed)
        assert 0 < refused < len(answers)
        use = await up.no_holds(tenant.tenant_id)
        after_crowd = (await _spent(up, tenant))[column]
        assert after_crowd <= limit
        while (last := await _post(client)).status_code == 200:  # what is left belongs to who comes now
            await up.no_holds(tenant.tenant_id)
        assert _refused_by_the_rule([last], unit, needed) == 1
    use, spent = await up.no_holds(tenant.tenant_id), await _spent(up, tenant)
    assert limit - needed < spent[column] <= limit
    assert (use["used_tokens"], use["used_micro_yen"]) == (spent["tokens"], spent["micro_yen"])
    assert (use["held_tokens"], use["held_micro_yen"], spent["unfinished"]) == (0, 0, 0)
    print(f"{unit}: {len(answers)} asked, {refused} refused, {after_crowd} of {limit} used by the crowd, ", end="")
    print(f"{spent[column]} in the end, overspent {max(0, spent[column] - limit)}")


async def test_a_request_that_fits_exactly_passes_and_one_token_more_is_refused(up: Stack) -> None:
    tokens, micro_yen = await _estimate(up)
    for terms, more in ((Terms(MODELS, tokens_month=tokens), 1), (Terms(MODELS, micro_yen_month=micro_yen), 1)):
        tenant = await add_tenant(up, terms)
        async with _client(up, tenant) as client:
            assert (await _post(client, max_tokens=MAX_TOKENS + more)).status_code == 429
            assert (await _post(client)).status_code == 200
            assert (await _post(client)).status_code == 429


async def test_the_estimate_counts_every_choice_and_every_prompt(up: Stack) -> None:
    tokens, micro_yen = await _estimate(up)
    async with _client(up, await add_tenant(up, Terms(models=MODELS))) as client:
        answer = await _post(client, n=5)
        row = await up.row(answer.headers["x-request-id"])
        assert row["held_tokens"] == tokens + 4 * MAX_TOKENS
        assert row["held_micro_yen"] == micro_yen + 4 * MAX_TOKENS * OUTPUT_PRICE
        body = {"model": "scripted-small", "prompt": ["a", "b", "c"], "n": 2, "max_tokens": 10}
        answer = await client.post("/completions", json=body)
        row = await up.row(answer.headers["x-request-id"])
    assert row["held_tokens"] > 3 * 2 * 10
    assert row["held_tokens"] - 60 == (row["held_micro_yen"] - 60 * OUTPUT_PRICE) // INPUT_PRICE
    assert row["prompt_tokens"] + row["completion_tokens"] <= row["held_tokens"]


async def test_no_more_run_at_once_than_the_limit_and_the_place_is_free_again(up: Stack) -> None:
    tenant = await add_tenant(up, Terms(models=("scripted-paced",), concurrency=4))
    async with _client(up, tenant) as client:
        answers = await asyncio.gather(*(_post(client, model="scripted-paced", max_tokens=30) for _ in range(24)))
        passed = [answer for answer in answers if answer.status_code == 200]
        assert len(passed) == 4
        for answer in answers:
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert (error["code"], error["rule"]) == ("rate_limit_exceeded", "limit:tenant:concurrency")
                assert int(answer.headers["retry-after"]) >= 1
        again = [await _post(client, model="scripted-paced", max_tokens=1) for _ in range(6)]
    assert [answer.status_code for answer in again] == [200] * 6  # one after the other: never refused
    await up.no_holds(tenant.tenant_id)


async def test_requests_of_a_minute_are_counted_exactly_and_the_refusal_says_when_to_come_back(up: Stack) -> None:
    left_s = 60 - time.time() % 60
    if left_s < 8:
        await asyncio.sleep(left_s)  # all of them in one minute
    tenant = await add_tenant(up, Terms(MODELS, rpm=5))
    async with _client(up, tenant) as client:
        answers = await asyncio.gather(*(_post(client, max_tokens=1) for _ in range(20)))
    passed = [answer for answer in answers if answer.status_code == 200]
    assert sorted(int(a.headers["x-ratelimit-remaining-requests"]) for a in passed) == [0, 1, 2, 3, 4]
    for answer in answers:
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (429, "rate_limit_exceeded")
            assert error["rule"] == "limit:tenant:rpm"
            assert 1 <= int(answer.headers["retry-after"]) <= 60


async def test_reserving_and_releasing_twice_under_one_id_counts_once(up: Stack) -> None:
    tenant_id = (await add_tenant(up)).tenant_id
    levels = (LimitLevel("tenant", tenant_id, Limits(1_000, 10**9, 100, 10)),)
    request_id, period = str(uuid_utils.uuid7()), period_of(time.time_ns() // 1_000, "Asia/Tokyo")
    holds = Holds(up.valkey_url, up.dsn)

    async def reserve(tokens: int = 600) -> Hold:
        return await holds.reserve(request_id, tenant_id, levels, period, tokens, 5_000, "test")

    try:
        first, second = await reserve(), await reserve()
        assert [hold.tokens_left.remaining for hold in (first, second) if hold.tokens_left] == [400, 400]
        use, count = await up.counters(tenant_id)
        assert (use["held_tokens"], use["held_micro_yen"], count) == (600, 5_000, 1)
        with pytest.raises(Fault):
            await holds.reserve(str(uuid_utils.uuid7()), tenant_id, levels, period, 401, 0, "test")
        for _ in range(2):
            await holds.release(Release(request_id, tenant_id, period, 250, 2_000))
        use, count = await up.counters(tenant_id)
        assert (use["held_tokens"], use["used_tokens"], use["used_micro_yen"], count) == (0, 250, 2_000, 0)
    finally:
        await holds.close()


async def test_1000_at_once_over_two_gateways_overspend_nothing_of_one_yen_limit(up: Stack, tmp_path: Path) -> None:
    needed = (await _estimate(up))[1]
    limit = 200 * needed
    tenant = await add_tenant(up, Terms(models=MODELS, micro_yen_month=limit))
    with replicas(up, 1, tmp_path / "gateway.log") as (other,):
        pool = httpx.Limits(max_connections=None, max_keepalive_connections=0)

        def client(base_url: str) -> httpx.AsyncClient:
            return httpx.AsyncClient(
                base_url=base_url, headers=tenant.headers, limits=pool, timeout=120, trust_env=False
            )  # fmt: skip

        async with client(up.base_url) as one, client(other.base_url) as two:
            answers = await asyncio.gather(*(_post(way, stream=n % 4 == 0) for n in range(500) for way in (one, two)))
            refused = _refused_by_the_rule(answers, "micro_yen_month", needed)
            assert 0 < refused < len(answers)
    use, spent = await up.no_holds(tenant.tenant_id), await _spent(up, tenant)
    assert 0 < spent["micro_yen"] <= limit
    assert (use["used_micro_yen"], use["held_micro_yen"], spent["unfinished"]) == (spent["micro_yen"], 0, 0)
    print(f"1,000 at once over two gateways: {refused} refused, {spent['micro_yen']} of {limit} used, overspent 0")
