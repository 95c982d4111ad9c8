"""What the tests of known failures do to bring a situation about: crowds over several gateways, clients that leave,
sessions that lock rows in the wrong order, processes of their own."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from tests.e2e.raw import connected, request
from tests.e2e.replicas import Replica, replica
from tests.e2e.stack import STOP_S_MAX, Stack, until
from tests.e2e.tenants import Tenant
from tests.e2e.witnessed import Spent, spent
from tests.serving.scripted.process import REPOSITORY

LEAVES_S_MAX = 3.0
PYTHON = REPOSITORY / ".venv" / "bin" / "python"


@contextlib.asynccontextmanager
async def callers(gateways: Sequence[Stack | Replica], tenant: Tenant) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client per gateway that knows the tenant by now."""
    limits = httpx.Limits(max_connections=None)
    async with contextlib.AsyncExitStack() as held:
        made = [
            await held.enter_async_context(
                httpx.AsyncClient(
                    base_url=one.base_url, headers=tenant.headers, limits=limits, timeout=60, trust_env=False
                )
            )
            for one in gateways
        ]
        for client in made:

            async def knows(client: httpx.AsyncClient = client) -> bool | None:
                return True if (await client.get("/models")).status_code == 200 else None

            await until(knows, 5.0, "a gateway does not know the tenant")
        yield made


async def crowd(clients: Sequence[httpx.AsyncClient], number: int, body: dict[str, Any]) -> list[httpx.Response]:
    """`number` requests at once, spread over the gateways."""
    return await asyncio.gather(
        *(clients[one % len(clients)].post("/chat/completions", json=body) for one in range(number))
    )


def passed(answers: Sequence[httpx.Response], rule: str) -> int:
    """How many got an answer; all others were refused by this rule."""
    for answer in answers:
        if answer.status_code != 200:
            assert (answer.status_code, answer.json()["error"]["rule"]) == (429, rule)
    return sum(answer.status_code == 200 for answer in answers)


async def leave(gateway: Stack | Replica, tenant: Tenant, body: dict[str, Any], events: int) -> None:
    """Ask, read so many events, and be gone without a word; 0 events: gone while nothing has come."""
    async with connected(gateway) as wire:
        await wire.send(request(tenant, body))
        if events:
            assert (await wire.head())[0] == 200
            for _ in range(events):
                await wire.reader.readuntil(b"\n\n")
        else:
            await asyncio.sleep(0.15)
        wire.reset()


async def read_to_done(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """Read a stream until it says [DONE]. Its connection may end without ceremony after that: the gateway does not wait
    for ever for a database before it closes the body."""
    async with client.stream("POST", "/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                return
    raise AssertionError("the stream ended without [DONE]")


async def left(up: Stack, tenant: Tenant, number: int) -> Spent:
    """The tenant's books once all its requests have rows and none is under way."""

    async def find() -> bool | None:
        rows = await up.fetch("SELECT count(*) AS n FROM journal WHERE tenant_id = $1", tenant.tenant_id)
        return True if rows[0]["n"] == number else None

    await until(find, LEAVES_S_MAX, "a request got no row")
    return await spent(up, tenant.tenant_id)


_UNFINISHED = """
SELECT instance_id, array_agg(request_id ORDER BY request_id) AS ids FROM journal
WHERE tenant_id = $1 AND settled_at IS NULL GROUP BY 1 ORDER BY count(*) DESC LIMIT 1
"""
_LOCK = "SELECT FROM journal WHERE request_id = $1 FOR UPDATE"
_WAITING = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))"


@dataclass
class Locker:
    """A session that locks rows of a gateway from the last to the first, against the order of everybody else, and waits
    in between until somebody stands in front of the last one: then the two wait for each other."""

    dsn: str
    tenant_id: str
    waited: int = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Do it again and again. It never becomes a deadlock's victim: the others look for one first."""
        locking = await asyncpg.connect(self.dsn, server_settings={"deadlock_timeout": "60s"})
        looking = await asyncpg.connect(self.dsn)
        try:
            while not stop.is_set():
                found = await looking.fetchrow(_UNFINISHED, self.tenant_id)
                if found is not None and len(found["ids"]) > 1:
                    async with locking.transaction():
                        await locking.execute(_LOCK, found["ids"][-1])
                        if await self._stood_before(looking, locking.get_server_pid()):
                            for request_id in reversed(found["ids"][:-1]):
                                await locking.execute(_LOCK, request_id)
                await asyncio.sleep(0.01)
        finally:
            await locking.close()
            await looking.close()

    async def _stood_before(self, looking: Any, pid: int) -> bool:
        for _ in range(100):
            if await looking.fetchval(_WAITING, pid):
                self.waited += 1
                await asyncio.sleep(0.02)
                return True
            await asyncio.sleep(0.005)
        return False


@contextlib.contextmanager
def process_of(up: Stack, log: Path, *arguments: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """One more process of the product on the stack's stores; `environment` is added to the stack's. Gone at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(PYTHON), "-m", "gateway.cli", *arguments], env={**up.environment, **environment}, cwd=REPOSITORY,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def replica_through(up: Stack, log: Path, **environment: str) -> AsyncIterator[Replica]:
    """One more gateway that reaches a store through this very process, whose loop therefore must not wait for it."""
    made = replica(up, log, environment=environment)
    running = await asyncio.to_thread(made.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(made.__exit__, None, None, None)


def words(log: Path) -> str:
    """What a process wrote."""
    return log.read_text(encoding="utf-8", errors="replace")
