"""A backup of a stack's book, taken while it serves, and a second pair of stores on which it is restored."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from gateway.up.folder import DataFolder
from gateway.up.processes import Child
from gateway.up.stores import DATABASE, PostgreSQL, Valkey
from tests.e2e.stack import Stack

TOOL_S_MAX = 60.0


@dataclass(frozen=True)
class Backup:
    """Two files: the roles of the cluster and the database."""

    roles: Path
    book: Path


@dataclass(frozen=True)
class Restored:
    """Stores that hold what the backup held. `environment` is what a gateway needs to run on them."""

    dsn: str
    environment: Mapping[str, str]

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Rows of the restored book."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()


async def run_tool(programs: Path, name: str, *arguments: str) -> None:
    """A program of PostgreSQL, to its good end."""
    process = await asyncio.create_subprocess_exec(
        str(programs / name), *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(TOOL_S_MAX):
        output, _ = await process.communicate()
    assert process.returncode == 0, f"{name}: {output.decode()}"


async def back_up(up: Stack, programs: Path, folder: Path) -> Backup:
    """As docs/operations.md says it."""
    backup = Backup(folder / "roles.sql", folder / "book.dump")
    await run_tool(
        programs, "pg_dumpall", f"--dbname={up.dsn}", "--roles-only", "--no-role-passwords", f"--file={backup.roles}"
    )
    await run_tool(programs, "pg_dump", f"--dbname={up.dsn}", "--format=custom", f"--file={backup.book}")
    return backup


def programs_of(up: Stack) -> Path:
    """Where PostgreSQL's programs are."""
    return PostgreSQL.of(DataFolder.at(up.data_dir), up.data_dir, os.environ).programs


@contextlib.asynccontextmanager
async def restored(backup: Backup, root: Path, secrets: Path) -> AsyncIterator[Restored]:
    """A fresh cluster with the backup in it, an empty Valkey, and the secrets where a gateway looks for them."""
    folder = DataFolder.at(root)
    folder.prepare()
    shutil.copytree(secrets, folder.root / "secrets", dirs_exist_ok=True)
    with folder.sockets(others_pass=os.geteuid() == 0) as sockets:
        postgresql, valkey = PostgreSQL.of(folder, sockets, os.environ), Valkey.of(folder, sockets, os.environ)
        await postgresql.prepare()
        children = [await Child.start(postgresql.command()), await Child.start(valkey.command())]
        try:
            await postgresql.until_ready(children[0])
            await valkey.until_ready(children[1])
            await _restore(backup, postgresql)
            environment = {
                "SEKISHO_DATABASE_URL": postgresql.dsn,
                "SEKISHO_VALKEY_URL": valkey.url,
                "SEKISHO_DATA_DIR": str(folder.root),
            }
            yield Restored(postgresql.dsn, environment)
        finally:
            for child in reversed(children):
                await child.stop()


async def _restore(backup: Backup, server: PostgreSQL) -> None:
    where = (f"--host={server.sockets}", "--username=postgres")
    await run_tool(server.programs, "psql", *where, "--quiet", "--dbname=postgres", f"--file={backup.roles}")
    await run_tool(server.programs, "pg_restore", *where, f"--dbname={DATABASE}", "--exit-on-error", str(backup.book))
