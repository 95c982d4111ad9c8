"""What fails behind the gateway, and what the caller gets, pays and may count on then."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.up.folder import DataFolder
from gateway.up.processes import Child
from gateway.up.stores import PostgreSQL
from tests.e2e.conftest import HERE, MODELS
from tests.e2e.raw import chat
from tests.e2e.stack import Stack, stack, until
from tests.e2e.tenants import Tenant, Terms, add_model, add_tenant
from tests.serving.scripted.process import EngineProcess, engine

IDLE_S = 1.5
TIMEOUTS = {
    "SEKISHO_UPSTREAM_FIRST_BYTE_S": "4",
    "SEKISHO_UPSTREAM_IDLE_S": str(IDLE_S),
    "SEKISHO_UPSTREAM_TOTAL_S": "6",
}


@dataclass
class Fragile:
    """A stack whose database the test may kill."""

    stack: Stack
    server: PostgreSQL
    child: Child

    async def kill_database(self) -> None:
        """SIGKILL to PostgreSQL and all its sessions."""
        self.child.kill()
        await self.child.wait()

    async def restart_database(self) -> None:
        """PostgreSQL again, after its own recovery."""
        self.child = await Child.start(self.server.command())
        await self.server.until_ready(self.child)


async def _with_models(running: Stack) -> None:
    for name in MODELS:
        if name != "scripted-small":
            await add_model(running, name)


@pytest.fixture(scope="module")
def impatient_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with short time-outs towards its engine."""
    with stack(tmp_path_factory.mktemp("faults") / "data", TIMEOUTS) as running:
        yield running


@pytest.fixture(scope="module")
def pacing_engine() -> Iterator[EngineProcess]:
    """An engine whose faults strike when something has been delivered."""
    with engine("--scenarios", str(HERE / "scenarios.yaml")) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def impatient(impatient_stack: Stack, pacing_engine: EngineProcess) -> Stack:
    """The same with every model."""
    await _with_models(impatient_stack)
    for name in PACED:
        await add_model(impatient_stack, name, engine_root=pacing_engine.root)
    return impatient_stack


@pytest_asyncio.fixture(scope="module")
async def fragile(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fragile]:
    """A stack on a database of ours: the supervisor of its own one would end everything with it."""
    folder = DataFolder.at(tmp_path_factory.mktemp("fragile") / "stores")
    folder.prepare()
    with folder.sockets(others_pass=os.geteuid() == 0) as sockets:
        server = PostgreSQL.of(folder, sockets, dict(os.environ))
        await server.prepare()
        child = await Child.start(server.command())
        held = Fragile.__new__(Fragile)
        try:
            await server.until_ready(child)
            with stack(folder.root.with_name("data"), {"SEKISHO_DATABASE_URL": server.dsn}) as running:
                held = Fragile(running, server, child)
                await _with_models(running)
                yield held
        finally:
            await getattr(held, "child", child).stop()


@dataclass(frozen=True)
class Case:
    """A fault of the engine and what becomes of the request. `completion` None: whatever the engine's record says."""

    model: str
    stream: bool
    status: int
    code: str
    outcome: str
    state: str
    attempt: int = 1
    completion: int | None = 0
    source: str = "none"

    def __str__(self) -> str:
        return f"{self.model.removeprefix('scripted-')}-{'stream' if self.stream else 'whole'}"


PACED = ("paced-bad-json", "paced-drop", "paced-missing-usage", "paced-error-event")
S, W = True, False
FAILED, LATE = ("upstream_failed", "upstream_failed"), ("upstream_timeout", "upstream_timeout")
BUSY, GOOD = ("overloaded", "refused_capacity"), ("", "completed")
CASES = [
    Case("scripted-refuse", S, 503, *BUSY, "voided"),
    Case("scripted-refuse", W, 503, *BUSY, "voided"),
    Case("scripted-hang-headers", S, 504, *LATE, "voided"),
    Case("scripted-hang-headers", W, 504, *LATE, "voided"),
    Case("scripted-hang-first-byte", S, 504, *LATE, "voided"),
    Case("scripted-hang-first-byte", W, 504, *LATE, "voided"),
    Case("scripted-hang-stream", S, 200, *LATE, "settled", completion=3, source="witness"),
    Case("scripted-hang-stream", W, 504, *LATE, "voided"),
    Case("scripted-drop-headers", S, 502, *FAILED, "voided", attempt=2),
    Case("scripted-drop-headers", W, 502, *FAILED, "voided", attempt=2),
    Case("scripted-drop-once", S, 200, *GOOD, "settled", attempt=2, completion=None, source="engine"),
    Case("scripted-drop-once", W, 200, *GOOD, "settled", attempt=2, completion=None, source="engine"),
    Case("scripted-drop", S, 200, *FAILED, "settled", completion=5, source="witness"),
    Case("scripted-drop", W, 502, *FAILED, "voided"),
    Case("scripted-reset", S, 200, *FAILED, "settled", completion=5, source="witness"),
    Case("scripted-reset", W, 502, *FAILED, "voided"),
    Case("paced-bad-json", S, 200, *FAILED, "settled", completion=None, source="witness"),
    Case("paced-drop", S, 200, *FAILED, "settled", completion=3, source="witness"),
    Case("paced-missing-usage", S, 200, *GOOD, "settled", completion=None, source="witness"),
    Case("scripted-bad-json", W, 502, *FAILED, "voided"),
    Case("scripted-slow-headers", S, 200, *GOOD, "settled", completion=None, source="engine"),
    Case("scripted-slow-headers", W, 200, *GOOD, "settled", completion=None, source="engine"),
    Case("scripted-late-usage", S, 200, *GOOD, "settled", completion=None, source="engine"),
    Case("scripted-missing-usage", W, 502, *FAILED, "voided"),
    Case("paced-error-event", S, 200, *FAILED, "settled", completion=3, source="witness"),
    Case("scripted-error-event", W, 502, *FAILED, "voided"),
]


def _client(up: Stack, tenant: Tenant) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=up.base_url, headers={**tenant.headers, "accept-language": "en"}, timeout=30, trust_env=False
    )


def _events(answer: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]


def _told(case: Case, answer: httpx.Response) -> None:
    """The client was told exactly what happened, in the form that its answer had begun in."""
    if case.status != 200:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (case.status, case.code)
        assert answer.headers["x-sekisho-outcome"] == case.outcome
        assert ("retry-after" in answer.headers) == (case.status == 503)
        return
    assert answer.status_code == 200
    if not case.stream:
        assert answer.json()["choices"][0]["message"]["content"]
        return
    *_, last = _events(answer)
    if case.code:
        assert json.loads(last)["error"]["code"] == case.code
        assert "[DONE]" not in answer.text
    else:
        assert last == "[DONE]"


@pytest_asyncio.fixture(scope="module")
async def played(impatient: Stack) -> dict[Case, tuple[Tenant, httpx.Response]]:
    """All cases at the same time, each with a tenant of its own: together they last as long as the longest."""
    terms = Terms(models=(*MODELS, *PACED))
    tenants = await asyncio.gather(*(add_tenant(impatient, terms) for _ in CASES))

    async def play(case: Case, tenant: Tenant) -> httpx.Response:
        async with _client(impatient, tenant) as client:
            return await client.post("/chat/completions", json=chat(case.model, stream=case.stream))

    answers = await asyncio.gather(*map(play, CASES, tenants))
    return {case: (tenant, answer) for case, tenant, answer in zip(CASES, tenants, answers, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_fault_of_the_engine_is_told_settled_and_charged_by_the_rule(
    impatient: Stack, played: dict[Case, tuple[Tenant, httpx.Response]], case: Case
) -> None:
    tenant, answer = played[case]
    _told(case, answer)
    row = await impatient.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["code"], row["state"]) == (case.outcome, case.code, case.state)
    assert (row["http_status"], row["attempt"], row["usage_source"]) == (case.status, case.attempt, case.source)
    record = await impatient.witness(case.model, f"{row['request_id']}-{case.attempt}")
    expected = record["completion_tokens"] if case.completion is None else case.completion
    assert row["completion_tokens"] == expected
    assert (row["micro_yen"] > 0) == (row["prompt_tokens"] > 0) == (case.source != "none")
    if case.attempt == 2:
        first = await impatient.witness(case.model, f"{row['request_id']}-1")
        assert first["state"] == "aborted" and first["completion_tokens"] == 0
    third = await impatient.witness(case.model, f"{row['request_id']}-{case.attempt + 1}")
    assert third["state"] == "unknown"
    ledger = await impatient.fetch(
        "SELECT coalesce(sum(debit), 0)::bigint AS debit FROM ledger_entry WHERE tenant_id = $1", tenant.tenant_id
    )
    assert ledger[0]["debit"] == row["micro_yen"]
    use = await impatient.no_holds(tenant.tenant_id)
    assert use["used_tokens"] == row["prompt_tokens"] + row["completion_tokens"]
    assert use["held_tokens"] == use["held_micro_yen"] == 0


async def _refused_for_the_store(client: httpx.AsyncClient) -> None:
    for stream in (False, True):
        answer = await client.post("/chat/completions", json=chat(stream=stream))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["x-sekisho-outcome"] == "refused_capacity"


async def _serves_again(client: httpx.AsyncClient) -> None:
    async def find() -> bool | None:
        answer = await client.post("/chat/completions", json=chat(max_tokens=1))
        return True if answer.status_code == 200 else None

    await until(find, 15.0, "the gateway does not serve again")


async def _all_final(up: Stack, tenant: Tenant) -> list[dict[str, Any]]:
    async def find() -> list[dict[str, Any]] | None:
        rows = await up.fetch("SELECT * FROM journal WHERE tenant_id = $1 ORDER BY request_id", tenant.tenant_id)
        return rows if all(row["settled_at"] is not None for row in rows) else None

    return await until(find, 15.0, f"a row of {tenant.tenant_id} stays open")


async def _readiness(up: Stack) -> int:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        return (await client.get(f"{up.root}/readyz")).status_code


async def _unready(up: Stack) -> bool | None:
    return True if await _readiness(up) == 503 else None


async def test_valkey_that_hangs_leaves_no_row_open_and_service_goes_on(impatient: Stack) -> None:
    tenant = await add_tenant(impatient)
    async with _client(impatient, tenant) as client:
        os.kill(impatient.pid("valkey"), signal.SIGSTOP)
        try:
            await _serves_again(client)  # by the book
        finally:
            os.kill(impatient.pid("valkey"), signal.SIGCONT)
        await _serves_again(client)
    rows = await _all_final(impatient, tenant)
    assert {row["state"] for row in rows if row["outcome"] != "completed"} <= {"voided"}
    assert [row["outcome"] for row in rows][-1] == "completed"
    await impatient.no_holds(tenant.tenant_id, within_s=15)


async def test_valkey_that_stops_under_a_running_stream_costs_neither_answer_nor_count(impatient: Stack) -> None:
    tenant = await add_tenant(impatient, Terms(models=MODELS))
    async with _client(impatient, tenant) as client:
        asking = asyncio.create_task(
            client.post("/chat/completions", json=chat("scripted-slow", stream=True, max_tokens=8))
        )
        await asyncio.sleep(0.7)
        os.kill(impatient.pid("valkey"), signal.SIGSTOP)
        try:
            answer = await asking
        finally:
            os.kill(impatient.pid("valkey"), signal.SIGCONT)
    assert _events(answer)[-1] == "[DONE]"
    row = await impatient.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["completion_tokens"]) == ("completed", 8)
    await impatient.no_holds(tenant.tenant_id, within_s=20)
    limits = await _limits(impatient, tenant)
    assert limits["tokens_month"] == row["prompt_tokens"] + 8


async def _limits(up: Stack, tenant: Tenant) -> dict[str, int]:
    """What the tenant has used of each limit, wherever it is kept now."""

    async def told() -> dict[str, int] | None:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{up.base_url}/limits", headers=tenant.headers)
        if answer.status_code != 200:
            return None
        return {row["limit"]: row["levels"][0]["used"] for row in answer.json()["limits"]}

    return await until(told, 15.0, "limits are not told")


async def _read_to_done(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    """Read a stream until it says [DONE]; its request id. Its connection may end without ceremony after that: the
    gateway does not wait for ever for a database before it closes the body."""
    async with client.stream("POST", "/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                return str(answer.headers["x-request-id"])
    raise AssertionError("the stream ended without [DONE]")


@pytest.mark.timeout(120)
async def test_without_the_database_nothing_is_delivered_uncharged_and_nothing_charged_undelivered(
    fragile: Fragile,
) -> None:
    up = fragile.stack
    tenant = await add_tenant(up, Terms(models=MODELS))
    async with _client(up, tenant) as client:
        streaming = asyncio.create_task(_read_to_done(client, chat("scripted-slow", stream=True, max_tokens=12)))
        whole = asyncio.create_task(client.post("/chat/completions", json=chat("scripted-slow", max_tokens=8)))
        await asyncio.sleep(0.9)
        await fragile.kill_database()
        try:
            await _refused_for_the_store(client)
            late = await whole  # its answer was complete and could not be booked
            assert (late.status_code, late.json()["error"]["code"]) == (503, "store_unavailable")
            await until(lambda: _unready(up), 8.0, "the gateway calls itself ready without a database")
        finally:
            await fragile.restart_database()
        streamed_id = await streaming
        await _serves_again(client)
    rows = {str(row["request_id"]): row for row in await _all_final(up, tenant)}
    row = rows[streamed_id]
    assert (row["outcome"], row["state"], row["completion_tokens"]) == ("completed", "settled", 12)
    assert rows[late.headers["x-request-id"]]["micro_yen"] == 0
    use = await up.no_holds(tenant.tenant_id, within_s=15)
    assert use["used_tokens"] == sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows.values())


async def test_sigterm_lets_a_running_stream_end_and_settles_one_that_would_take_too_long(fragile: Fragile) -> None:
    up = fragile.stack
    tenant = await add_tenant(up, Terms(models=MODELS))
    old = up.pid("gateway")
    async with _client(up, tenant) as client:
        short, long = (
            asyncio.create_task(
                client.post("/chat/completions", json=chat("scripted-slow", stream=True, max_tokens=tokens))
            )
            for tokens in (10, 200)
        )
        await asyncio.sleep(0.7)
        os.kill(old, signal.SIGTERM)
        ended, cut = await asyncio.gather(short, long)
        assert _events(ended)[-1] == "[DONE]"
        assert json.loads(_events(cut)[-1])["error"]["code"] == "shutting_down"
        await _serves_again_after_restart(up, client)
    rows = {str(row["request_id"]): row for row in await _all_final(up, tenant)}
    row = rows[ended.headers["x-request-id"]]
    assert (row["outcome"], row["completion_tokens"]) == ("completed", 10)
    row = rows[cut.headers["x-request-id"]]
    delivered = sum('"content":"' in event and '"content":""' not in event for event in _events(cut))
    assert row["state"] == "settled" and row["completion_tokens"] == delivered > 10
    assert up.pid("gateway") != old
    await up.no_holds(tenant.tenant_id, within_s=15)


async def _serves_again_after_restart(up: Stack, client: httpx.AsyncClient) -> None:
    async def find() -> bool | None:
        try:
            answer = await client.post("/chat/completions", json=chat(max_tokens=1))
        except httpx.TransportError:
            return None
        return True if answer.status_code == 200 else None

    await until(find, 20.0, "the gateway did not come back")
