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
from tests.e2e.replicas import Replica
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


async def left(up: Stack, tenant: Tenant, number: int) -> Spent:
    """The tenant's books once all its requests have rows and none is under way."""

    async def find() -> bool | None:
        rows = await up.fetch("SELECT count(*) AS n FROM journal WHERE tenant_id = $1", tenant.tenant_id)
        return True if rows[0]["n"] == number else None

    await until(find, LEAVES_S_MAX, "a request got no row")
    return await spent(up, tenant.tenant_id)


@dataclass(frozen=True)
class Locker:
    """A session that locks rows of a tenant from the last to the first, against the order of everybody else."""

    dsn: str
    tenant_id: str

    async def run(self, stop: asyncio.Event) -> None:
        """Do it again and again. It never becomes a deadlock's victim: the others look for one first."""
        connection = await asyncpg.connect(self.dsn, server_settings={"deadlock_timeout": "60s"})
        lock = "SELECT FROM journal WHERE request_id = $1 FOR UPDATE"
        try:
            while not stop.is_set():
                rows = await connection.fetch(
                    "SELECT request_id FROM journal WHERE tenant_id = $1 AND settled_at IS NULL ORDER BY 1",
                    self.tenant_id,
                )
                async with connection.transaction():
                    for row in [rows[-1], rows[0]] if len(rows) > 1 else []:
                        await connection.execute(lock, row["request_id"])
                        await asyncio.sleep(0.15)
                await asyncio.sleep(0.01)
        finally:
            await connection.close()


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


def words(log: Path) -> str:
    """What a process wrote."""
    return log.read_text(encoding="utf-8", errors="replace")
