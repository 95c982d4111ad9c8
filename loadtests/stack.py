"""The local stack for a measurement: `sekisho up` with the scripted engine in a data folder of its own."""

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from loadtests.processes import environment_of, running

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class LocalStack:
    """A stack that serves. `engine_root` is the scripted engine's address without a path, `record` its witness file."""

    data_dir: Path
    base_url: str
    ops_url: str
    api_key: str
    database_url: str
    valkey_url: str
    engine_root: str
    record: Path
    environment: Mapping[str, str]

    def pid(self, name: str) -> int:
        """The pid of a child now: a child that was restarted has another one."""
        pids: dict[str, int] = json.loads((self.data_dir / "up.json").read_text(encoding="utf-8"))["pids"]
        return pids[name]

    def query(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        """Rows of one statement, as the database's owner."""
        return asyncio.run(self._query(statement, *arguments))

    async def _query(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self.database_url)
        try:
            return [dict(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """An empty folder on the clone's own disk (a RAM disk would make every commit free), removed at the end."""
    reports = ROOT / "reports"
    reports.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"run-{name}-", dir=reports))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def local_stack(data_dir: Path) -> Iterator[LocalStack]:
    """Stores, scripted engine, gateway and worker, as `make up ENGINE=scripted` starts them; stopped on exit."""
    data_dir.mkdir(parents=True, exist_ok=True)
    up_file = data_dir / "up.json"
    argv = [sys.executable, "-m", "gateway.up", "--engine", "scripted", "--data-dir", str(data_dir)]
    with running(argv, ready=up_file.exists, log=data_dir / "up.log", cwd=ROOT):
        up = json.loads(up_file.read_text(encoding="utf-8"))
        environment = environment_of(up["pids"]["gateway"])
        stack = LocalStack(
            data_dir=data_dir,
            base_url=up["base_url"],
            ops_url=up["ops_url"],
            api_key=up["api_key"],
            database_url=environment["SEKISHO_DATABASE_URL"],
            valkey_url=environment["SEKISHO_VALKEY_URL"],
            engine_root="",
            record=data_dir / "served" / "scripted.jsonl",
            environment=environment,
        )
        upstream = stack.query("SELECT base_url FROM upstream WHERE upstream_id = 'demo-engine'")[0]["base_url"]
        parts = urlsplit(upstream)
        yield LocalStack(**{**_fields(stack), "engine_root": f"{parts.scheme}://{parts.netloc}"})


def _fields(stack: LocalStack) -> dict[str, Any]:
    return {name: getattr(stack, name) for name in LocalStack.__slots__}
