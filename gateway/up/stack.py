"""The order in which the parts of a local stack come up, and what the user is told at the end."""

import asyncio
import os
import secrets
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gateway.identity.secrets import create_private
from gateway.settings import witness_token_file_of
from gateway.tenancy.seed import DemoAccess, seed_demo
from gateway.up import engine as engines
from gateway.up.engine import Engine
from gateway.up.folder import DataFolder, write_private_json
from gateway.up.leftovers import INSTANCE_VARIABLE, Record
from gateway.up.options import EngineKind, Options
from gateway.up.ports import LOOPBACK, PortClaim, claim_any, claim_default, claim_named
from gateway.up.probe import first_request, is_ok, listens, serves
from gateway.up.processes import Command, until_ready
from gateway.up.steps import Steps, step
from gateway.up.stores import PostgreSQL, Valkey
from gateway.up.supervisor import Supervisor

DEFAULT_PORT = 8080
DEFAULT_OPS_PORT = 8081
DEFAULT_ADMIN_PORT = 8082
# The sum of the longest of each group, 18.5 s, stays below the 20 s that `wire.md` allows.
# What an engine recorded is asked for as long as the gateway and the worker settle.
STOP_ORDER = (("gateway",), ("worker", "engine"), ("witness", "valkey", "postgresql"))
_GATEWAY_STOP_S_MAX = 8.5
_GATEWAY_DRAIN_S = "4"  # for its streams, and as long again for its settlements
_GATEWAY_READY_S_MAX = 30.0
_WITNESS_READY_S_MAX = 60.0  # it first reads the records that are there
_CODE = Path(__file__).resolve().parents[2]  # children run the code that we run, installed or not
GatewayPorts = tuple[PortClaim, PortClaim, PortClaim]  # data, operations, administration
_A = TypeVar("_A")
_B = TypeVar("_B")


@dataclass(frozen=True, slots=True)
class Running:
    """A stack that serves."""

    base_url: str
    ops_url: str
    admin_url: str
    access: DemoAccess
    engine: EngineKind

    def up_json(self, pids: Mapping[str, int]) -> dict[str, object]:
        """The content of `up.json`; keys of parts that do not exist are absent."""
        return {
            "base_url": self.base_url,
            "api_key": self.access.api_key,
            "model": self.access.model,
            "admin_url": self.admin_url,
            "admin_key": self.access.admin_key,
            "ops_url": self.ops_url,
            "licence_path": str(self.access.licence_path),
            "trust_path": str(self.access.trust_path),
            "engine": self.engine,
            "pids": {"supervisor": os.getpid(), **pids},
        }


class Stack:
    """One start of the local stack. `close` gives the ports back."""

    def __init__(self, options: Options, folder: DataFolder, sockets: Path, steps: Steps, record: Record) -> None:
        self._options = options
        self._folder = folder
        self._sockets = sockets
        self._steps = steps
        self._env = _environment(folder, record.instance)
        self._claims: list[PortClaim] = []
        self._engine_port: PortClaim | None = None
        self._witness_port: PortClaim | None = None
        self.supervisor = Supervisor(steps, record, STOP_ORDER)

    def close(self) -> None:
        """Gives back the ports that were claimed."""
        for claim in self._claims:
            claim.close()

    async def start(self) -> Running:
        """Brings everything up, what is independent at the same time, and ends with a request that was answered.

        Raises `UpError`; what has been started by then is the supervisor's to stop.
        """
        port = self._claim(self._options.port, DEFAULT_PORT, "PORT")
        ops_port = self._claim(self._options.ops_port, DEFAULT_OPS_PORT, "OPS_PORT")
        admin_port = self._claim(self._options.admin_port, DEFAULT_ADMIN_PORT, "ADMIN_PORT")
        engine = await self._choose_engine()
        ports = (port, ops_port, admin_port)
        access, _ = await _together(self._start_gateway_on_stores(engine, ports), self._start_engine(engine))
        base_url = f"http://{LOOPBACK}:{port.port}/v1"
        with step(self._steps, "first request") as current:
            current.detail = f"first token after {await first_request(base_url, access.api_key, access.model):.2f} s"
        return Running(
            base_url=base_url,
            ops_url=f"http://{LOOPBACK}:{ops_port.port}",
            admin_url=f"http://{LOOPBACK}:{admin_port.port}/admin/v1",
            access=access,
            engine=engine.kind,
        )

    def publish(self, running: Running) -> None:
        """Writes `up.json`, and again whenever a child runs under a new pid; and how operators' commands reach the
        stores."""
        stores = {name: self._env[name] for name in ("SEKISHO_DATABASE_URL", "SEKISHO_VALKEY_URL")}
        write_private_json(self._folder.stores_file, stores)
        write_private_json(self._folder.up_file, running.up_json(self.supervisor.pids))

    def _claim(self, named: int | None, default: int, option: str) -> PortClaim:
        claim = claim_default(default) if named is None else claim_named(named, option)
        self._claims.append(claim)
        if named is None and claim.port != default:
            self._steps.note(f"port {default} is taken, using {claim.port} ({option}=… names one)")
        return claim

    async def _start_postgresql(self) -> None:
        if "SEKISHO_DATABASE_URL" in os.environ:
            return
        server = PostgreSQL.of(self._folder, self._sockets, self._env)
        with step(self._steps, "PostgreSQL") as current:
            made = await server.prepare()
            child = await self.supervisor.start(server.command())
            version = await server.until_ready(child)
            current.detail = f"{version}, new cluster" if made else version
        self._env["SEKISHO_DATABASE_URL"] = server.dsn
        self.supervisor.mind(child)

    async def _start_valkey(self) -> None:
        if "SEKISHO_VALKEY_URL" in os.environ:
            return
        server = Valkey.of(self._folder, self._sockets, self._env)
        with step(self._steps, "Valkey"):
            child = await self.supervisor.start(server.command())
            await server.until_ready(child)
        self._env["SEKISHO_VALKEY_URL"] = server.url
        self.supervisor.mind(child)

    async def _choose_engine(self) -> Engine:
        """Which engine it will be; one that runs elsewhere is asked at once, so that a wrong name fails early."""
        python, model = Path(sys.executable), self._options.model
        if self._options.upstream is not None:
            with step(self._steps, "upstream") as current:
                engine = await engines.elsewhere(self._options.upstream, model)
                current.detail = f"{engine.base_url} serves {engine.model_id}"
            return engine
        claim = self._engine_port = claim_any()
        self._claims.append(claim)
        token_file = self._witness_token()
        if self._options.engine == "scripted":
            return engines.scripted(self._folder, self._env, claim.port, token_file, model, python)
        witness = self._witness_port = claim_any()
        self._claims.append(witness)
        ports = (claim.port, witness.port)
        return await engines.vllm(self._folder, self._env, ports, token_file, model, python)

    def _witness_token(self) -> Path:
        """The file with the token for the engine's records, made where it is missing."""
        token_file = witness_token_file_of(self._folder.root, self._env)
        create_private(token_file, secrets.token_urlsafe(32) + "\n")
        return token_file

    async def _start_engine(self, engine: Engine) -> None:
        if engine.witness is not None and self._witness_port is not None:
            with step(self._steps, "witness"):
                self._witness_port.release()
                url = f"{engine.witness_url}"
                await self._keep(engine.witness, lambda: listens(url), _WITNESS_READY_S_MAX)
        if engine.prepare is not None:
            with step(self._steps, f"model {engine.model_id}"):
                await self.supervisor.run(engine.prepare)
        if engine.command is None or self._engine_port is None:
            return
        with step(self._steps, f"engine {engine.kind}") as current:
            self._engine_port.release()
            await self._keep(engine.command, lambda: serves(engine.base_url, engine.model_id), engine.ready_s_max)
            current.detail = f"serves {engine.model_id}"

    async def _start_gateway_on_stores(self, engine: Engine, ports: GatewayPorts) -> DemoAccess:
        await _together(self._start_postgresql(), self._start_valkey())
        with step(self._steps, "migrations"):
            await self.supervisor.run(self._sekisho("migrate"))
        access = await self._seed(engine)
        await _together(self._start_gateway(*ports), self._start_worker())
        return access

    async def _seed(self, engine: Engine) -> DemoAccess:
        with step(self._steps, "demo tenant"):
            return await seed_demo(
                self._env["SEKISHO_DATABASE_URL"],
                self._folder.root,
                upstream_base_url=engine.base_url,
                witness_url=engine.witness_url,
                model=dict(engine.model),
                engine=engine.kind,
            )

    async def _start_gateway(self, port: PortClaim, ops_port: PortClaim, admin_port: PortClaim) -> None:
        numbers = ("--roles", "data,admin", "--host", LOOPBACK, "--port", str(port.port), "--ops-port",
                   str(ops_port.port), "--admin-port", str(admin_port.port))  # fmt: skip
        with step(self._steps, "gateway"):
            for claim in (port, ops_port, admin_port):
                claim.release()
            command = self._sekisho("gateway", *numbers, stop_s_max=_GATEWAY_STOP_S_MAX)
            ready = f"http://{LOOPBACK}:{port.port}/readyz"
            await self._keep(command, lambda: is_ok(ready), _GATEWAY_READY_S_MAX)

    async def _start_worker(self) -> None:
        """The worker answers no questions: it counts as ready when it runs, and is restarted when it ends."""
        with step(self._steps, "worker"):
            await self._keep(self._sekisho("worker", stop_s_max=4.0), _at_once, 5.0)

    async def _keep(self, command: Command, is_ready: Any, within_s: float) -> None:
        child = await self.supervisor.start(command)
        await until_ready(child, is_ready, within_s=within_s)
        self.supervisor.keep(child, is_ready, within_s=within_s)

    def _sekisho(self, name: str, *arguments: str, stop_s_max: float = 5.0) -> Command:
        return Command(
            name=name,
            argv=(sys.executable, "-m", "gateway.cli", name, *arguments),
            log=self._folder.log(name),
            env=dict(self._env),
            cwd=_CODE,
            stop_s_max=stop_s_max,
        )


async def _at_once() -> bool:
    return True


def _environment(folder: DataFolder, instance: str) -> dict[str, str]:
    """What children inherit: ours, without PostgreSQL's client variables, which would change their connections."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    env.setdefault("SEKISHO_DRAIN_S", _GATEWAY_DRAIN_S)
    return {**env, "SEKISHO_DATA_DIR": str(folder.root), INSTANCE_VARIABLE: instance}


async def _together(first: Coroutine[Any, Any, _A], second: Coroutine[Any, Any, _B]) -> tuple[_A, _B]:
    """Both at the same time. The first failure cancels the other one and is raised as it is."""
    one, two = asyncio.create_task(first), asyncio.create_task(second)
    try:
        await asyncio.gather(one, two)
        return one.result(), two.result()
    finally:
        one.cancel()
        two.cancel()
        await asyncio.gather(one, two, return_exceptions=True)
