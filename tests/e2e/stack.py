"""The whole local stack as one process of its own, and what a test needs to look behind it.

The stack is started the way a user starts it (`sekisho up --engine scripted`), so nothing here knows more than the
programs tell: ports and pids come from `up.json`, the stores' addresses from the gateway's own environment.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx
import psutil
from redis.asyncio import Redis

from tests.serving.scripted.process import REPOSITORY

START_S_MAX = 90.0
STOP_S_MAX = 25.0
POLL_S = 0.02
_Found = TypeVar("_Found")
SEKISHO = REPOSITORY / ".venv" / "bin" / "sekisho"


@dataclass(frozen=True)
class Stack:
    """A stack that serves. `environment` is the gateway's, as the kernel shows it."""

    process: "subprocess.Popen[bytes]"
    data_dir: Path
    up: Mapping[str, Any]
    environment: Mapping[str, str]

    @property
    def base_url(self) -> str:
        """The data plane's address, with `/v1`."""
        return str(self.up["base_url"])

    @property
    def root(self) -> str:
        """The data plane's address without a path."""
        return self.base_url.removesuffix("/v1")

    @property
    def port(self) -> int:
        """The data port."""
        return int(self.root.rpartition(":")[2])

    @property
    def key(self) -> str:
        """The demo tenant's API key."""
        return str(self.up["api_key"])

    @property
    def dsn(self) -> str:
        """PostgreSQL, as its superuser."""
        return self.environment["SEKISHO_DATABASE_URL"]

    @property
    def valkey_url(self) -> str:
        """Valkey."""
        return self.environment["SEKISHO_VALKEY_URL"]

    def pid(self, name: str) -> int:
        """The pid of a part, as of now: the supervisor writes the file again when a child comes back."""
        return int(json.loads((self.data_dir / "up.json").read_text(encoding="utf-8"))["pids"][name])

    def rss_bytes(self) -> int:
        """Resident memory of the gateway."""
        return int(psutil.Process(self.pid("gateway")).memory_info().rss)

    async def connect(self) -> Any:
        """A connection to the book."""
        return await asyncpg.connect(self.dsn)

    def valkey(self) -> Any:
        """A client of Valkey; the caller closes it."""
        return Redis.from_url(self.valkey_url, decode_responses=True)

    async def row(self, request_id: str, *, final: bool = True, within_s: float = 5.0) -> dict[str, Any]:
        """The journal row of a request, once it is final. Fails when it is not in time."""

        async def find() -> dict[str, Any] | None:
            found = await self.fetch("SELECT * FROM journal WHERE request_id = $1::text::uuid", request_id)
            return found[0] if found and (not final or found[0]["settled_at"] is not None) else None

        return await until(find, within_s, f"no final row of {request_id}")

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Rows of the book."""
        connection = await self.connect()
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def engine_root(self, model: str) -> str:
        """The engine that serves `model`, without a path."""
        rows = await self.fetch("SELECT base_url FROM upstream WHERE model = $1", model)
        return str(rows[0]["base_url"]).removesuffix("/v1")

    @property
    def witness_headers(self) -> dict[str, str]:
        """What an engine wants to see before it shows its records."""
        token = (self.data_dir / "secrets" / "witness.token").read_text(encoding="ascii").split()[0]
        return {"authorization": f"Bearer {token}"}

    async def witness_url(self, model: str) -> str:
        """Where the records of the engine that serves `model` are read."""
        rows = await self.fetch("SELECT witness_url FROM upstream WHERE model = $1", model)
        return str(rows[0]["witness_url"])

    async def witness(self, model: str, attempt_id: str) -> dict[str, Any]:
        """What the engine itself recorded of an attempt (`{"state": "unknown"}` when it never saw it)."""
        async with httpx.AsyncClient(trust_env=False, headers=self.witness_headers) as client:
            answer = await client.get(f"{await self.witness_url(model)}/{attempt_id}")
        found: dict[str, Any] = answer.json()
        return found

    async def counters(self, tenant_id: str) -> tuple[dict[str, int], int]:
        """Valkey's counters of the tenant's current period, and the number of its holds, of the generation in force."""
        mode = (await self.fetch("SELECT name FROM limits_mode"))[0]
        own = f"sekisho:{mode['name']}"
        valkey = self.valkey()
        try:
            keys = [key async for key in valkey.scan_iter(match=f"{own}:use:{tenant_id}:*")]
            use: dict[str, str] = await valkey.hgetall(keys[0]) if keys else {}
            return {name: int(value) for name, value in use.items()}, await valkey.hlen(f"{own}:holds:{tenant_id}")
        finally:
            await valkey.aclose()

    async def no_holds(self, tenant_id: str, within_s: float = 5.0) -> dict[str, int]:
        """The counters once no hold is left. Fails when one stays."""

        async def find() -> dict[str, int] | None:
            use, holds = await self.counters(tenant_id)
            return use if holds == 0 else None

        return await until(find, within_s, f"a hold of {tenant_id} stays behind")


async def until(find: Callable[[], Awaitable[_Found | None]], within_s: float, complaint: str) -> _Found:
    """What `find` gives once it gives something; fails with `complaint` after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        found = await find()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{complaint} within {within_s} s")
        await asyncio.sleep(POLL_S)


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def stack(
    data_dir: Path,
    environment: Mapping[str, str] | None = None,
    *,
    kind: str = "scripted",
    start_s_max: float = START_S_MAX,
) -> Iterator[Stack]:
    """A stack of its own in `data_dir`, with an engine of `kind`; all of it is gone at the end. `environment` is added
    to ours."""
    ports = ("--port", str(free_port()), "--ops-port", str(free_port()), "--admin-port", str(free_port()))
    log = data_dir.with_name(data_dir.name + ".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(SEKISHO), "up", "--engine", kind, "--data-dir", str(data_dir), *ports],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    try:
        up = _published(process, data_dir / "up.json", log, start_s_max)
        yield Stack(process, data_dir, up, psutil.Process(up["pids"]["gateway"]).environ())
    finally:
        stop(process)


def _published(process: "subprocess.Popen[bytes]", path: Path, log: Path, within_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + within_s
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            text = log.read_text(encoding="utf-8", errors="replace")
            raise AssertionError(f"the stack did not come up (exit code {process.poll()}):\n{text}")
        time.sleep(POLL_S)
    up: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return up


def stop(process: "subprocess.Popen[bytes]") -> int:
    """SIGTERM, and SIGKILL to a supervisor that does not leave in time; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
