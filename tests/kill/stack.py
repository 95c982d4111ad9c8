"""The whole stack as real processes: both stores, the scripted engine with its record, gateways, a worker.

Everything listens on loopback or in a private socket folder, and is ended by the pid under which it was started.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from billing.rating import RateCard
from gateway.identity.keys import new_key
from gateway.identity.secrets import load_peppers
from gateway.migrations.run import migrate
from gateway.tenancy.parties import LocalParties
from gateway.up.folder import DataFolder
from gateway.up.ports import LOOPBACK, PortClaim, claim_any
from gateway.up.probe import is_ok
from gateway.up.processes import Child, Command, until_ready
from gateway.up.stores import PostgreSQL, Valkey
from tests.kill.failpoints import LOG_VARIABLE, VARIABLE
from tests.kill.stores import STORES, Kept, kill_store
from tests.licences import a_licence

REPOSITORY = Path(__file__).resolve().parents[2]
READY_S_MAX = 30.0
STOP_S_MAX = 25.0  # more than SEKISHO_DRAIN_S: an orderly end may wait for a database that comes back
TENANTS = ("kill-a", "kill-b", "kill-c")
PACED, QUICK = "kill-paced", "kill-quick"
SCENARIOS = """
version: 1
models:
  kill-paced:
    text: 箱根の関所は江戸時代に置かれ、今は博物館です。 The checkpoint is a museum today.
    reasoning: まず道を確かめます。
    repeat_to_tokens: 40
    tokens_per_s: 100
    first_token_s: 0.03
    cached_tokens: 3
  kill-quick:
    text: 峠の茶屋では団子とお茶が旅人を迎えます。 In spring the stretch is still cold.
    repeat_to_tokens: 12
"""
CARDS = {
    model: RateCard(f"card-{model}", model, 0, None, *prices)
    for model, prices in {PACED: (120, 60, 480), QUICK: (50, 25, 150)}.items()
}


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL: of whom, when (unix seconds), and at which point (empty: at a random time)."""

    victim: str
    pid: int
    at: float
    point: str = ""
    kind: str = ""
    request_id: str = ""


SESSION = "session"


@dataclass
class Stack:
    """A running stack. `kills` holds those that the harness sent itself; the others are in the log."""

    folder: DataFolder
    env: dict[str, str]
    dsn: str
    valkey_url: str
    keys: dict[str, str] = field(default_factory=dict)
    claims: dict[str, PortClaim] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)
    stores: dict[str, Kept] = field(default_factory=dict)

    @property
    def record(self) -> Path:
        """The engine's record file, kept over its deaths."""
        return self.folder.part("served") / "scripted.jsonl"

    @property
    def log(self) -> Path:
        """What the wrapped processes note before their end."""
        return self.folder.root / "deaths.jsonl"

    def url(self, name: str) -> str:
        """The address of a process, without a path."""
        return f"http://{LOOPBACK}:{self._port(name)}"

    def _port(self, name: str) -> int:
        if name not in self.claims:
            self.claims[name] = claim_any()
        return self.claims[name].port

    async def start(self, name: str, armed: str = "") -> Child:
        """Starts `engine`, `worker` or `gateway-<slot>`, its death armed as SEKISHO_FAILPOINT says, until it serves."""
        kind = name.partition("-")[0]
        port = str(self._port(name))
        arguments: tuple[str, ...] = ()
        ready = ""
        if kind == "engine":
            scenarios = self.folder.root / "scenarios.yaml"
            arguments = (
                "--host",
                LOOPBACK,
                "--port",
                port,
                "--record",
                str(self.record),
                "--scenarios",
                str(scenarios),
            )
            ready = f"{self.url(name)}/health"
        elif kind == "gateway":
            arguments = ("--host", LOOPBACK, "--port", port, "--ops-port", str(self._port(f"{name}-ops")))
            self.claims[f"{name}-ops"].release()
            ready = f"{self.url(name)}/readyz"
        self.claims[name].release()
        child = await Child.start(
            Command(
                name=name,
                argv=(sys.executable, "-m", "tests.kill.failpoints", kind, *arguments),
                log=self.folder.log(name),
                env={**self.env, VARIABLE: armed},
                cwd=REPOSITORY,
                stop_s_max=STOP_S_MAX,
            )
        )
        self.children[name] = child
        if ready:
            await until_ready(child, lambda: is_ok(ready), within_s=READY_S_MAX)
        return child

    async def kill(self, name: str) -> None:
        """SIGKILL, now. A store comes back by itself, `session` is one of PostgreSQL's."""
        if name in STORES or name == SESSION:
            victim = "postgresql" if name == SESSION else name
            at = time.time()
            pid = self.stores[victim].kill_session() if name == SESSION else kill_store(self.folder.root, name)
            if pid is not None:
                self.kills.append(Kill(victim, pid, at, SESSION if name == SESSION else ""))
            return
        child = self.children[name]
        if child.running:
            self.kills.append(Kill(name.partition("-")[0], child.pid, time.time()))
            os.kill(child.pid, signal.SIGKILL)
        await child.wait()

    def freeze(self, name: str) -> None:
        """SIGSTOP: the process does nothing any more, its connections stay."""
        os.kill(self.children[name].pid, signal.SIGSTOP)

    def listening(self) -> set[str]:
        """The addresses on which our processes accept TCP connections now."""
        processes = [psutil.Process(child.pid) for child in self.children.values() if child.running]
        return {
            one.laddr.ip for process in processes for one in process.net_connections("tcp") if one.status == "LISTEN"
        }

    def deaths(self) -> list[Kill]:
        """Every SIGKILL so far, in order of time."""
        noted = [line for line in self.noted() if "point" in line]
        points = [Kill(**{"victim": _victim(line["point"]), **line}) for line in noted]
        return sorted([*points, *self.kills], key=lambda kill: kill.at)

    def duplicates(self) -> int:
        """How many settlements and ends of holds were delivered again."""
        return sum("duplicate" in line for line in self.noted())

    def instances(self) -> dict[int, str]:
        """The instance id of every gateway that was started, by pid."""
        return {line["pid"]: line["instance"] for line in self.noted() if "instance" in line}

    def noted(self) -> list[dict[str, Any]]:
        """The log's lines."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


def _victim(point: str) -> str:
    return point.partition("_")[0] if point.startswith(("worker_", "engine_")) else "gateway"


@asynccontextmanager
async def running(root: Path) -> AsyncIterator[Stack]:
    """Stores with three tenants, and the engine. Gateways and worker are the caller's to start; all is ended here."""
    folder = DataFolder.at(root)
    folder.prepare()
    (folder.root / "scenarios.yaml").write_text(SCENARIOS, encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    with folder.sockets(others_pass=os.geteuid() == 0) as sockets:
        postgresql, valkey = PostgreSQL.of(folder, sockets, env), Valkey.of(folder, sockets, env)
        env |= {
            "SEKISHO_DATA_DIR": str(folder.root),
            "SEKISHO_DATABASE_URL": postgresql.dsn,
            "SEKISHO_VALKEY_URL": valkey.url,
        }
        stack = Stack(folder, env, postgresql.dsn, valkey.url)
        env[LOG_VARIABLE] = str(stack.log)
        stack.log.touch()
        stack.stores = {
            "postgresql": Kept("postgresql", postgresql, folder.root),
            "valkey": Kept("valkey", valkey, folder.root),
        }
        try:
            await postgresql.prepare()
            await asyncio.gather(*(store.start() for store in stack.stores.values()))
            await migrate(stack.dsn)
            await stack.start("engine")
            await _seed(stack)
            yield stack
        finally:
            await asyncio.gather(*(child.stop() for child in stack.children.values()))
            await asyncio.gather(*(store.stop() for store in stack.stores.values()))
            for claim in stack.claims.values():
                claim.close()


async def _seed(stack: Stack) -> None:
    pepper = load_peppers(stack.folder.root).current
    parties = LocalParties(stack.folder.root)
    connection = await asyncpg.connect(stack.dsn)
    try:
        for tenant_id in TENANTS:
            key = new_key("kill", pepper)
            stack.keys[tenant_id] = key.text
            await connection.execute(
                "INSERT INTO tenant (tenant_id, legal_name, tokens_month, micro_yen_month, rpm, concurrency)"
                " VALUES ($1, $1, 1000000000, 1000000000000000, 1000000, 4096)",
                tenant_id,
            )
            await connection.execute(
                "INSERT INTO api_key (key_id, tenant_id, mac, pepper_id) VALUES ($1, $2, $3, $4)",
                key.key_id, tenant_id, key.mac, key.pepper_id,
            )  # fmt: skip
            grant = {"id": "g1", "models": [PACED, QUICK], "actions": ["chat", "completion"]}
            await parties.store(connection, a_licence(tenant_id, f"lic-{tenant_id}", [grant]))
        for model, card in CARDS.items():
            await connection.execute(
                "INSERT INTO upstream (upstream_id, model, base_url, served_model, witness_url, tier, region, site,"
                " profile) VALUES ($1, $1, $2, $1, $3, 'heavy', 'jp', 'local', $4::jsonb)",
                model, f"{stack.url('engine')}/v1", f"{stack.url('engine')}/witness",
                json.dumps({"context_tokens": 8192, "max_output_tokens": 8192}),
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO rate_card (rate_card_id, model, effective_from, input_price, cached_input_price,"
                " output_price) VALUES ($1, $2, timestamptz '2026-01-01 00:00+09', $3, $4, $5)",
                card.rate_card_id, model, card.input_price, card.cached_input_price, card.output_price,
            )  # fmt: skip
    finally:
        await connection.close()
