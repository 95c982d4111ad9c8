"""What fails in public elsewhere, brought about for real over three gateway processes, and every figure compared with
the engine's own record. Each test names the reports of the situation."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.up.folder import DataFolder
from tests.e2e.conftest import HERE
from tests.e2e.forwarder import Forwarder, forwarder
from tests.e2e.raw import chat, connected, request
from tests.e2e.replicas import Replica, replica, replicas
from tests.e2e.situations import (
    LEAVES_S_MAX,
    Locker,
    callers,
    crowd,
    leave,
    left,
    passed,
    process_of,
    read_to_done,
    replica_through,
    words,
)
from tests.e2e.stack import START_S_MAX, Stack, free_port, until
from tests.e2e.tenants import INPUT_PRICE, Tenant, Terms, add_model, add_tenant
from tests.e2e.witnessed import DELIVERED, spent
from tests.serving.scripted.process import EngineProcess, engine

KNOWN = ("known-late-usage", "known-zero", "known-steady", "known-together", "known-broken", "known-silent")
FREE = "known-free"
CROWDS_MAX = 6
MODELS = ("scripted-small", "scripted-paced", "scripted-slow", *KNOWN, FREE)
TERMS = Terms(models=MODELS)
GIVEN_BACK_S_MAX = 3.0  # before the worker's sweep would come, which looks at no hold younger than 5 s


@pytest.fixture(scope="module")
def known_engine() -> Iterator[EngineProcess]:
    """An engine that behaves as those in the reports."""
    with engine("--scenarios", str(HERE / "known_failures.yaml")) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def known(up: Stack, known_engine: EngineProcess) -> Stack:
    """The stack with that engine's models; one of them costs nothing."""
    for name in KNOWN:
        await add_model(up, name, engine_root=known_engine.root)
    await add_model(up, FREE, engine_root=known_engine.root, prices=(0, 0, 0))
    return up


@pytest.fixture(scope="module")
def gateways(known: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Stack | Replica]]:
    """Three gateway processes on the same stores."""
    with replicas(known, 2, tmp_path_factory.mktemp("known") / "replica") as more:
        yield [known, *more]


async def needed(up: Stack, body: dict[str, Any]) -> tuple[int, int]:
    """What a request is held to at most, and what it costs in the end; micro-yen."""
    tenant = await add_tenant(up, TERMS)
    async with callers([up], tenant) as (client,):
        assert (await client.post("/chat/completions", json=body)).status_code == 200
    found = await spent(up, tenant.tenant_id)
    return int(found.rows[0]["held_micro_yen"]), found.micro_yen


async def test_simultaneous_requests_cannot_pass_a_budget_that_a_few_of_them_use_up(
    known: Stack, gateways: list[Stack | Replica]
) -> None:
    """LiteLLM #34732, #26672: all that arrive together see the same spend, all pass, and the budget is overspent many
    times over."""
    body = chat("scripted-paced", max_tokens=20)
    held, cost = await needed(known, body)
    fit = 5
    tenant = await add_tenant(known, replace(TERMS, micro_yen_month=fit * held))
    async with callers(gateways, tenant) as clients:
        through = passed(await crowd(clients, 90, body), "limit:tenant:micro_yen_month")
        found = await spent(known, tenant.tenant_id)
        assert found.micro_yen == through * cost <= fit * held
        assert through >= fit
        while passed(await crowd(clients, 1, body), "limit:tenant:micro_yen_month"):
            await known.no_holds(tenant.tenant_id)
    found = await spent(known, tenant.tenant_id)
    assert fit * held - held < found.micro_yen <= fit * held


async def test_first_requests_of_a_key_that_nobody_has_counted_yet_bind_to_its_budget(
    known: Stack, gateways: list[Stack | Replica]
) -> None:
    """LiteLLM #40095: the first requests of somebody new arrive together before any counter exists, and no limit binds
    them."""
    body = chat("scripted-paced", max_tokens=20)
    held, cost = await needed(known, body)
    tenant = await add_tenant(known, TERMS)
    await known.fetch("UPDATE api_key SET micro_yen_month = $2 WHERE key_id = $1", tenant.key_id, held)
    async with callers(gateways, tenant) as clients:
        await asyncio.sleep(0.7)  # every gateway has read the key's limit
        assert await known.counters(tenant.tenant_id) == ({}, 0)
        assert passed(await crowd(clients, 24, body), "limit:key:micro_yen_month") == 1
    assert (await spent(known, tenant.tenant_id)).micro_yen == cost


async def test_requests_that_fail_are_left_or_lose_their_answer_give_their_reservation_back(
    known: Stack, gateways: list[Stack | Replica], tmp_path: Path
) -> None:
    """LiteLLM #27639, #36926: reservations of requests that end in an unusual way are never taken back, add up, and
    refuse a tenant that has spent next to nothing."""
    held, _ = await needed(known, chat("scripted-paced", max_tokens=20))
    tenant = await add_tenant(known, replace(TERMS, micro_yen_month=8 * held, concurrency=40))
    valkey = Path(known.valkey_url.removeprefix("unix://"))
    async with forwarder(valkey, tmp_path / "valkey.sock") as wire:
        environment = {"SEKISHO_VALKEY_URL": f"unix://{tmp_path}/valkey.sock"}
        async with (
            replica_through(known, tmp_path / "muted.log", **environment) as muted,
            callers([*gateways, muted], tenant) as clients,
        ):
            broken = await crowd(clients, 8, chat("known-broken", max_tokens=20))
            assert {answer.status_code for answer in broken} == {502}
            for _ in range(2):
                await asyncio.gather(
                    *(leave(one, tenant, chat("known-silent", max_tokens=20, stream=True), 0) for one in gateways),
                    *(leave(one, tenant, chat("scripted-paced", max_tokens=20), 0) for one in gateways),
                )
                await known.no_holds(tenant.tenant_id, 10)
            wire.mute = True  # Valkey takes the reservation, and nobody hears of it
            lost = await clients[-1].post("/chat/completions", json=chat("scripted-paced", max_tokens=20))
            assert lost.status_code in (200, 503) and wire.swallowed > 0
            wire.mute = False
            await known.no_holds(tenant.tenant_id, GIVEN_BACK_S_MAX)
            free = await crowd(clients, 8, chat("scripted-paced", max_tokens=20))
            assert {answer.status_code for answer in free} == {200}
    found = await spent(known, tenant.tenant_id)
    assert len(found.of("settled")) == 8 + (lost.status_code == 200)


@pytest.mark.parametrize("events", [1, 4, 9])
async def test_stream_left_before_the_only_chunk_with_usage_is_charged_what_the_engine_generated(
    known: Stack, gateways: list[Stack | Replica], events: int
) -> None:
    """LiteLLM #14457: the counts come in the last chunk; a client that leaves before it is charged with nothing."""
    tenant = await add_tenant(known, TERMS)
    async with callers(gateways, tenant):
        body = chat("known-late-usage", stream=True)
        await asyncio.gather(*(leave(gateway, tenant, body, events) for gateway in gateways))
    found = await left(known, tenant, len(gateways))
    for row in found.rows:
        assert (row["outcome"], row["usage_source"]) == ("client_gone", "witness")
        assert 1 <= row["completion_tokens"] < 200
        assert row["micro_yen"] > 0


async def test_whole_answer_that_nobody_waits_for_is_no_tenants_and_stops_at_the_engine(
    known: Stack, gateways: list[Stack | Replica]
) -> None:
    """LiteLLM #13245: a client leaves a whole answer; the engine goes on to its end, and what the books say of it is
    part of what it did. Here the engine stops, and its record says how far it came: the work of nobody's."""
    tenant = await add_tenant(known, TERMS)
    async with callers(gateways, tenant):
        began = time.time()
        await asyncio.gather(*(leave(gateway, tenant, chat("known-steady"), 0) for gateway in gateways))
    found = await left(known, tenant, len(gateways))
    for row in found.rows:
        assert (row["state"], row["outcome"]) == ("voided", "client_gone")
        record = await known.witness(row["model"], f"{row['request_id']}-1")
        assert record["state"] == "aborted"
        assert record["prompt_tokens"] > 0 and record["completion_tokens"] < 300
        assert record["ended_at"] - began < LEAVES_S_MAX
    assert found.micro_yen == 0


async def test_explicit_zero_of_the_engine_is_booked_as_zero(known: Stack, gateways: list[Stack | Replica]) -> None:
    """LiteLLM #37992: an engine says 0, which counts as no answer, and an estimate takes its place. Here: nothing was
    generated when the client left, and the estimate would have been 400 tokens."""
    tenant = await add_tenant(known, TERMS)
    async with callers(gateways, tenant):
        body = chat("known-zero", max_tokens=400, stream=True)
        await asyncio.gather(*(leave(gateway, tenant, body, 1) for gateway in gateways))
    for row in (await left(known, tenant, len(gateways))).rows:
        assert (row["state"], row["completion_tokens"]) == ("settled", 0)
        assert row["micro_yen"] == row["prompt_tokens"] * INPUT_PRICE > 0


async def test_explicit_price_of_zero_stays_zero_while_tokens_are_counted(
    known: Stack, gateways: list[Stack | Replica]
) -> None:
    """LiteLLM #37992, the price: a model that costs nothing is charged by an estimate or a default price."""
    tenant = await add_tenant(known, replace(TERMS, micro_yen_month=0))
    async with callers(gateways, tenant) as clients:
        answers = await crowd(clients, 6, chat(FREE, max_tokens=10))
    assert {answer.status_code for answer in answers} == {200}
    found = await spent(known, tenant.tenant_id, free=True)
    assert found.tokens == sum(answer.json()["usage"]["total_tokens"] for answer in answers) > 0
    assert found.micro_yen == 0


async def test_limit_is_one_limit_however_many_gateways_there_are(
    known: Stack, gateways: list[Stack | Replica]
) -> None:
    """LiteLLM #40291: each replica counts for itself, so three of them allow three times the limit."""
    left_s = 60 - time.time() % 60
    if left_s < 6:
        await asyncio.sleep(left_s)  # all of them in one minute
    small, slow = chat(max_tokens=1), chat("known-steady", max_tokens=25)
    by_minute = await add_tenant(known, replace(TERMS, rpm=7))
    async with callers(gateways, by_minute) as clients:
        assert passed(await crowd(clients, 60, small), "limit:tenant:rpm") == 7
    at_once = await add_tenant(known, replace(TERMS, concurrency=4))
    async with callers(gateways, at_once) as clients:
        assert passed(await crowd(clients, 60, slow), "limit:tenant:concurrency") == 4
    for tenant, number in ((by_minute, 7), (at_once, 4)):
        assert len((await spent(known, tenant.tenant_id)).of("settled")) == number


async def test_many_who_begin_a_month_anew_at_once_erase_nothing_of_what_was_spent_since(
    known: Stack, gateways: list[Stack | Replica]
) -> None:
    """LiteLLM #36940: every replica resets the counters of a new period; the one that comes late wipes out what was
    spent since. Here every gateway finds the month's counters gone, again and again, in the middle of traffic."""
    tenant = await add_tenant(known, TERMS)
    valkey = known.valkey()
    body = chat("scripted-small", max_tokens=12)
    answers: list[httpx.Response] = []

    async def keep_asking(client: httpx.AsyncClient, until_s: float) -> None:
        while time.monotonic() < until_s:
            answers.append(await client.post("/chat/completions", json=body))
            await asyncio.sleep(0.08)

    try:
        async with callers(gateways, tenant) as clients:
            await crowd(clients, 3, body)
            ends = time.monotonic() + 2.0
            asking = [asyncio.create_task(keep_asking(client, ends)) for client in clients for _ in range(2)]
            anew = 0
            while time.monotonic() < ends - 0.3:
                keys = [key async for key in valkey.scan_iter(match=f"sekisho:*use:{tenant.tenant_id}:*")]
                anew += await valkey.delete(*keys) if keys else 0
                await asyncio.sleep(0.05)
            await asyncio.gather(*asking)
    finally:
        await valkey.aclose()
    assert anew > 10
    assert {answer.status_code for answer in answers} == {200}
    assert len((await spent(known, tenant.tenant_id)).of("settled")) == len(answers) + 3


async def test_many_workers_recover_what_a_dead_gateway_left_once(known: Stack, tmp_path: Path) -> None:
    """LiteLLM #36940, the job: each of several replicas does the periodic work, and does it over what another has done.
    Here four workers look at the streams of a gateway that was killed."""
    tenant = await add_tenant(known, TERMS)
    with contextlib.ExitStack() as processes:
        for number in range(3):
            processes.enter_context(process_of(known, tmp_path / f"worker-{number}.log", "worker"))
        killed = processes.enter_context(replica(known, tmp_path / "killed.log"))
        async with callers([killed], tenant), contextlib.AsyncExitStack() as held:
            wires = [await held.enter_async_context(connected(killed)) for _ in range(12)]
            for wire in wires:
                await wire.send(request(tenant, chat("known-steady", stream=True)))
            for wire in wires:
                assert (await wire.head())[0] == 200
                await wire.reader.readuntil(b"\n\n")
            killed.process.send_signal(signal.SIGKILL)
        found = await left(known, tenant, 12)
    assert {(row["state"], row["usage_source"]) for row in found.rows} == {("recovered", "witness")}
    assert found.micro_yen > 0


async def test_deadlocks_in_the_database_drop_no_row(known: Stack, gateways: list[Stack | Replica]) -> None:
    """LiteLLM #27989: two sessions lock the same rows in different orders, PostgreSQL ends one of them, and what it was
    about to write is gone."""
    log = DataFolder.at(known.data_dir).log("postgresql")
    before = words(log).count("deadlock detected")
    tenant = await add_tenant(known, TERMS)
    locker, stop = Locker(known.dsn, tenant.tenant_id), asyncio.Event()
    async with callers(gateways, tenant) as clients:
        locking = asyncio.create_task(locker.run(stop))
        answers = []
        for _ in range(CROWDS_MAX):  # on a busy machine the two may miss each other
            answers += await crowd(clients, 30, chat("known-together", max_tokens=16))
            answers += await crowd(clients, 30, chat("known-together", max_tokens=16, stream=True))
            if words(log).count("deadlock detected") > before:
                break
        stop.set()
        await locking
    found = await spent(known, tenant.tenant_id)
    assert {answer.status_code for answer in answers} == {200}
    assert len(found.of("settled")) == len(answers)
    assert {row["completion_tokens"] for row in found.rows} == {16}
    assert words(log).count("deadlock detected") > before


async def test_outage_of_the_database_refuses_valid_keys_as_unavailable_and_ends_by_itself(
    known: Stack, tmp_path: Path
) -> None:
    """LiteLLM #38121: the database is away, also already at the start of a process; valid keys are told that they are
    invalid, and go on to be when it is back, until somebody restarts."""
    tenant = await add_tenant(known, TERMS)
    host = known.dsn.partition("host=")[2].partition("&")[0]
    (tmp_path / "pg").mkdir()
    dsn = known.dsn.replace(f"host={host}", f"host={tmp_path}/pg")
    environment = {"SEKISHO_DATABASE_URL": dsn}
    async with forwarder(Path(host) / ".s.PGSQL.5432", tmp_path / "pg" / ".s.PGSQL.5432") as database:
        await database.cut()
        await started_without(known, environment, tmp_path / "early.log", tenant)
        await database.open()
        async with (
            replica_through(known, tmp_path / "late.log", **environment) as gateway,
            callers([gateway], tenant) as (client,),
        ):
            await without_database(client, database)
            began = time.monotonic()

            async def serves() -> bool | None:
                answer = await client.post("/chat/completions", json=chat(max_tokens=2))
                return True if answer.status_code == 200 else None

            await until(serves, 5.0, "the gateway does not serve again")
            assert time.monotonic() - began <= 5.0
            assert (await client.get(f"{gateway.root}/readyz")).status_code == 200
    # Of a process that is cut off for longer than 5 s the worker finishes what it can: by the engine's record, once.
    assert len((await spent(known, tenant.tenant_id)).of(*DELIVERED)) == 3


async def without_database(client: httpx.AsyncClient, database: Forwarder) -> None:
    """Every answer to a valid key while the database is away for longer than the configuration may be old."""
    streaming = asyncio.create_task(read_to_done(client, chat("scripted-slow", stream=True, max_tokens=5)))
    assert (await client.post("/chat/completions", json=chat(max_tokens=2))).status_code == 200
    await asyncio.sleep(0.5)
    await database.cut()
    ends = time.monotonic() + 6.5
    seen = set()
    while time.monotonic() < ends:
        answer = await client.post("/chat/completions", json=chat(max_tokens=2))
        seen.add((answer.status_code, answer.json()["error"]["code"]))
        assert int(answer.headers["retry-after"]) >= 1
        await asyncio.sleep(0.1)
    assert seen == {(503, "store_unavailable")}
    assert (await client.get(str(client.base_url.copy_with(path="/readyz")))).status_code == 503
    await database.open()
    await streaming


async def started_without(up: Stack, environment: dict[str, str], log: Path, tenant: Tenant) -> None:
    """A gateway that finds no database at its start ends and says why; it never answers a valid key with a refusal."""
    port = free_port()
    arguments = ("gateway", "--port", str(port), "--ops-port", str(free_port()))

    async def ended() -> int | None:
        with contextlib.suppress(httpx.TransportError):
            answer = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=chat(max_tokens=1))
            assert answer.status_code == 503
        return process.poll()

    with process_of(up, log, *arguments, **environment) as process:
        async with httpx.AsyncClient(trust_env=False, headers=tenant.headers) as client:
            assert await until(ended, START_S_MAX, "the gateway neither serves nor ends") != 0
    assert "PostgreSQL" in words(log)


@pytest.mark.parametrize("events", [3, 10])
async def test_stream_of_three_choices_that_is_left_is_charged_the_sum_of_all_three(
    known: Stack, gateways: list[Stack | Replica], events: int
) -> None:
    """n = 3: an engine counts per choice until its last chunk, so that the last count seen is a third of the truth."""
    tenant = await add_tenant(known, TERMS)
    async with callers(gateways, tenant):
        body = chat("known-steady", stream=True, n=3)
        await asyncio.gather(*(leave(gateway, tenant, body, events) for gateway in gateways))
    for row in (await left(known, tenant, len(gateways))).rows:
        assert row["outcome"] == "client_gone"
        assert row["completion_tokens"] >= 3 and row["completion_tokens"] % 3 == 0
