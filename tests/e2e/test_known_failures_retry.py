"""A request that is sent again under its `Idempotency-Key` is metered once: not twice, and not zero times."""

import asyncio
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.conftest import HERE
from tests.e2e.forwarder import forwarder
from tests.e2e.raw import chat, connected, request
from tests.e2e.replicas import Replica, replica
from tests.e2e.situations import callers, replica_through
from tests.e2e.stack import Stack, until
from tests.e2e.tenants import Tenant, Terms, add_model, add_tenant
from tests.e2e.witnessed import DELIVERED, spent
from tests.serving.scripted.process import EngineProcess, engine

LATE_STARTER, STEADY = "retry-known-late-starter", "retry-known-steady"
TERMS = Terms(models=("scripted-small", "scripted-paced", LATE_STARTER, STEADY))
RETRIED_S_MAX = 30.0
KEY = {"idempotency-key": "order-4711"}


@pytest.fixture(scope="module")
def known_engine() -> Iterator[EngineProcess]:
    """An engine that refuses its first request."""
    with engine("--scenarios", str(HERE / "known_failures.yaml")) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def known(up: Stack, known_engine: EngineProcess) -> Stack:
    """The stack with that engine's models."""
    for name in (LATE_STARTER, STEADY):
        await add_model(up, name, served_model=name.removeprefix("retry-"), engine_root=known_engine.root)
    return up


@pytest.fixture(scope="module")
def second(known: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """A second gateway, where the retry arrives."""
    with replica(known, tmp_path_factory.mktemp("retry") / "second.log") as running:
        yield running


async def again_until_served(client: httpx.AsyncClient, body: Mapping[str, Any]) -> httpx.Response:
    """The same request under the same key, as a client with patience sends it: until it has its answer."""

    async def find() -> httpx.Response | None:
        answer = await client.post("/chat/completions", json=body, headers=KEY)
        assert answer.status_code in (200, 409, 502, 503), answer.text
        return answer if answer.status_code == 200 else None

    return await until(find, RETRIED_S_MAX, "the retry is never served")


async def charged_once(up: Stack, tenant: Tenant, answer: httpx.Response) -> None:
    """Exactly one row is charged, with the engine's own counts, which are those of the answer."""
    found = await spent(up, tenant.tenant_id)
    (row,) = found.of(*DELIVERED)
    usage = answer.json()["usage"]
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert found.micro_yen == row["micro_yen"] > 0


async def test_retry_after_the_engine_refused_is_served_and_metered_once(known: Stack, second: Replica) -> None:
    """OpenMeter #5118: the id is claimed before the work is written; the work fails, the retry is taken for a
    repetition of something done, succeeds, and is metered zero times."""
    tenant = await add_tenant(known, TERMS)
    body = chat(LATE_STARTER, max_tokens=10)
    async with callers([known, second], tenant) as (first, other):
        refused = await first.post("/chat/completions", json=body, headers=KEY)
        assert refused.status_code in (502, 503)
        answer = await again_until_served(other, body)
        repeated = await first.post("/chat/completions", json=body, headers=KEY)
    assert (repeated.status_code, repeated.json()) == (200, answer.json())
    await charged_once(known, tenant, answer)


async def test_retry_after_an_outage_of_the_database_is_served_and_metered_once(known: Stack, tmp_path: Path) -> None:
    """OpenMeter #5118, with the write itself failing."""
    tenant = await add_tenant(known, TERMS)
    host = known.dsn.partition("host=")[2].partition("&")[0]
    (tmp_path / "pg").mkdir()
    environment = {"SEKISHO_DATABASE_URL": known.dsn.replace(f"host={host}", f"host={tmp_path}/pg")}
    body = chat("scripted-paced", max_tokens=20)
    async with (
        forwarder(Path(host) / ".s.PGSQL.5432", tmp_path / "pg" / ".s.PGSQL.5432") as database,
        replica_through(known, tmp_path / "cut.log", **environment) as cut,
        callers([cut], tenant) as (client,),
    ):
        asking = asyncio.create_task(client.post("/chat/completions", json=body, headers=KEY))
        await asyncio.sleep(0.2)
        await database.cut()
        assert (await asking).status_code == 503
        await database.open()
        answer = await again_until_served(client, body)
        repeated = await client.post("/chat/completions", json=body, headers=KEY)
    assert (repeated.status_code, repeated.json()) == (200, answer.json())
    await charged_once(known, tenant, answer)


async def test_retry_after_the_gateway_died_is_served_elsewhere_and_metered_once(
    known: Stack, second: Replica, tmp_path: Path
) -> None:
    """OpenMeter #5118, with the process that claimed the id dying."""
    tenant = await add_tenant(known, TERMS)
    body = chat(STEADY, max_tokens=25)
    with replica(known, tmp_path / "dies.log") as dies:
        async with callers([dies, second], tenant) as (_, other):
            async with connected(dies) as wire:
                await wire.send(request(tenant, body, idempotency_key=KEY["idempotency-key"]))
                await asyncio.sleep(0.4)
                dies.process.send_signal(signal.SIGKILL)
            answer = await again_until_served(other, body)
            repeated = await other.post("/chat/completions", json=body, headers=KEY)
    assert (repeated.status_code, repeated.json()) == (200, answer.json())
    await charged_once(known, tenant, answer)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_from_many_at_once_is_answered_to_all_and_metered_once(
    known: Stack, second: Replica, stream: bool
) -> None:
    """Metered twice: a client that times out and sends again while the first one is still being served."""
    tenant = await add_tenant(known, TERMS)
    body = chat("scripted-paced", max_tokens=20, stream=stream)
    async with callers([known, second], tenant) as clients:
        answers = await asyncio.gather(
            *(clients[one % 2].post("/chat/completions", json=body, headers=KEY) for one in range(10))
        )
        other = await clients[0].post("/chat/completions", json={**body, "max_tokens": 19}, headers=KEY)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert other.status_code == 409
    found = await spent(known, tenant.tenant_id)
    (row,) = found.of(*DELIVERED)
    assert row["completion_tokens"] == 20
