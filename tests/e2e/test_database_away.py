"""PostgreSQL is gone for a minute under load: new work is refused, running streams end, nothing is lost or made up."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.up.folder import DataFolder
from gateway.up.processes import Child
from gateway.up.stores import PostgreSQL
from tests.e2e.stack import Stack, stack, until
from tests.e2e.tenants import Tenant, Terms, add_model, add_tenant

AWAY_S = 60.0
BACK_S_MAX = 5.0
STREAM_TOKENS = (
    30,
    120,
    310,
)  # at 5 tokens a second: they end early in the outage, in the middle of it, and at its end
QUESTION = [{"role": "user", "content": "Who may pass?"}]


class Server:
    """A PostgreSQL that the test stops and starts; the stack only knows where it is."""

    def __init__(self, postgresql: PostgreSQL) -> None:
        self._postgresql = postgresql
        self._child: Child | None = None

    @property
    def dsn(self) -> str:
        return self._postgresql.dsn

    async def start(self) -> None:
        self._child = await Child.start(self._postgresql.command())
        await self._postgresql.until_ready(self._child)

    async def stop(self) -> None:
        assert self._child is not None
        await self._child.stop()


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[Server]:
    data = DataFolder.at(folder)
    data.prepare()
    with data.sockets(others_pass=os.geteuid() == 0) as sockets:
        postgresql = PostgreSQL.of(data, sockets, dict(os.environ))
        await postgresql.prepare()
        running = Server(postgresql)
        await running.start()
        try:
            yield running
        finally:
            await running.stop()


@dataclass
class Seen:
    """What callers saw: (seconds of the monotonic clock, status, `retry-after` there, code), and readiness."""

    answers: list[tuple[float, int, bool, str]] = field(default_factory=list)
    ready: list[tuple[float, int, str]] = field(default_factory=list)


async def keep_asking(stack: Stack, tenant: Tenant, seen: Seen, client: httpx.AsyncClient) -> None:
    body = {"model": "scripted-small", "messages": QUESTION, "max_tokens": 4}
    while True:
        answer = await client.post(f"{stack.base_url}/chat/completions", headers=tenant.headers, json=body)
        code = "" if answer.status_code == 200 else answer.json()["error"]["code"]
        seen.answers.append((time.monotonic(), answer.status_code, "retry-after" in answer.headers, code))
        ready = await client.get(f"{stack.root}/readyz")
        seen.ready.append((time.monotonic(), ready.status_code, ready.json().get("why", "")))
        await asyncio.sleep(0.1)


async def stream(stack: Stack, tenant: Tenant, tokens: int, client: httpx.AsyncClient) -> tuple[str, bool]:
    """The request id of a slow stream, and whether it came to its end."""
    body = {"model": "scripted-slow", "messages": QUESTION, "max_tokens": tokens, "stream": True}
    url = f"{stack.base_url}/chat/completions"
    async with client.stream("POST", url, headers=tenant.headers, json=body) as answer:
        assert answer.status_code == 200
        text = "".join([part async for part in answer.aiter_text()])
    return answer.headers["x-request-id"], text.endswith("data: [DONE]\n\n")


@pytest.mark.timeout(120)
async def test_gateway_that_dies_while_the_database_is_away_loses_no_settlement(tmp_path: Path) -> None:
    async with server(tmp_path / "pg") as database:
        with stack(tmp_path / "data", {"SEKISHO_DATABASE_URL": database.dsn}) as up:
            await add_model(up, "scripted-slow")
            tenant = await add_tenant(up, Terms(models=("scripted-slow",)))
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                asking = [asyncio.create_task(stream(up, tenant, 10, client)) for _ in range(3)]
                await asyncio.sleep(1)
                await database.stop()
                ended = await asyncio.gather(*asking)
                assert all(whole for _, whole in ended)
                os.kill(up.pid("gateway"), signal.SIGKILL)
                (left,) = spooled(up)
                await database.start()
                for request_id, _ in ended:
                    row = await up.row(request_id, within_s=20)
                    # By its own gateway's word: recovery would have said `recovered` and `internal`.
                    assert (row["state"], row["outcome"], row["completion_tokens"]) == ("settled", "completed", 10)
                await until(lambda: gone(up, left), 5.0, "the file of the dead process stays")
                await up.no_holds(tenant.tenant_id, within_s=20)


def spooled(up: Stack) -> list[Path]:
    return list((up.data_dir / "spool").glob("*"))


async def gone(up: Stack, path: Path) -> bool | None:
    return None if path in spooled(up) else True


@pytest.mark.timeout(240)
async def test_minute_without_the_database(tmp_path: Path) -> None:
    async with server(tmp_path / "pg") as database:
        with stack(tmp_path / "data", {"SEKISHO_DATABASE_URL": database.dsn}) as up:
            await add_model(up, "scripted-slow")
            tenant = await add_tenant(up, Terms(models=("scripted-small", "scripted-slow")))
            limits = httpx.Limits(max_connections=100)
            async with httpx.AsyncClient(trust_env=False, timeout=180, limits=limits) as client:
                await outage(up, database, tenant, client)


async def outage(up: Stack, database: Server, tenant: Tenant, client: httpx.AsyncClient) -> None:
    seen = Seen()
    streams = [asyncio.create_task(stream(up, tenant, n, client)) for n in STREAM_TOKENS for _ in range(5)]
    asking = [asyncio.create_task(keep_asking(up, tenant, seen, client)) for _ in range(4)]
    try:
        await asyncio.sleep(3)
        await database.stop()
        away = time.monotonic()
        await asyncio.sleep(AWAY_S)
        await database.start()
        back = time.monotonic()
        ended = await asyncio.gather(*streams)
        await asyncio.sleep(max(0.0, back + 2 * BACK_S_MAX - time.monotonic()))
    finally:
        for one in (*asking, *streams):
            one.cancel()
        gone = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(error) for error in gone} == {asyncio.CancelledError}
    assert all(whole for _, whole in ended)
    refused_while_away(seen, away, back)
    served_again(seen, back)
    await nothing_lost(up, tenant, [request_id for request_id, _ in ended], seen)


def refused_while_away(seen: Seen, away: float, back: float) -> None:
    answers = [one for one in seen.answers if away + 1 < one[0] < back]
    assert len(answers) > 100
    # Never 401: a key does not become invalid because it cannot be looked up.
    assert {(status, retry) for _, status, retry, _ in answers} == {(503, True)}
    ready = [one for one in seen.ready if away + 7 < one[0] < back]
    assert {status for _, status, _ in ready} == {503}
    assert all("PostgreSQL" in why for _, _, why in ready)


def served_again(seen: Seen, back: float) -> None:
    first = min(at for at, status, _, _ in seen.answers if status == 200 and at > back)
    assert first - back < BACK_S_MAX
    assert {status for at, status, _, _ in seen.answers if at > back + BACK_S_MAX} == {200}
    assert {status for at, status, _ in seen.ready if at > back + BACK_S_MAX} == {200}


async def nothing_lost(up: Stack, tenant: Tenant, streamed: list[str], seen: Seen) -> None:
    for request_id in streamed:
        row = await up.row(request_id, within_s=20)
        witness = await up.witness("scripted-slow", f"{request_id}-{row['attempt']}")
        assert (row["state"], row["outcome"]) == ("settled", "completed")
        assert (row["prompt_tokens"], row["completion_tokens"]) == (
            witness["prompt_tokens"], witness["completion_tokens"],
        )  # fmt: skip
    served = sum(status == 200 for _, status, _, _ in seen.answers)

    async def all_final() -> list[dict[str, Any]] | None:
        rows = await up.fetch("SELECT * FROM journal WHERE tenant_id = $1 AND first_byte_at IS NOT NULL",
                              tenant.tenant_id)  # fmt: skip
        return rows if all(row["settled_at"] is not None for row in rows) else None

    rows = await until(all_final, 20.0, "rows stay unfinished")
    # An answer that was marked when the database went away may have been told as 503; it is never charged without it.
    assert sum(row["outcome"] == "completed" for row in rows) == served + len(streamed)
    await up.no_holds(tenant.tenant_id, within_s=20)
    assert not spooled(up)
