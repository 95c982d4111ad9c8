"""Both stores of the stack, killed and brought back on the same folder (`sekisho up` itself ends with them)."""

import asyncio
import os
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from gateway.up.failure import UpError
from gateway.up.processes import Child
from gateway.up.stores import PostgreSQL, Valkey

Name = Literal["postgresql", "valkey"]
STORES: tuple[Name, ...] = ("postgresql", "valkey")
RESTARTS_MAX = 5
POLL_S = 0.01


def kill_store(folder: Path, name: str) -> int | None:
    """SIGKILL to a store and all its sessions, from whichever process; its pid, None when it does not run just now."""
    try:
        process = psutil.Process(int(_pid_file(folder, name).read_text(encoding="ascii")))
        sessions = process.children(recursive=True)
        process.kill()
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
    for session in sessions:
        _kill(session)
    return process.pid


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _pid_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.pid"


@dataclass
class Kept:
    """A store that is started again whenever it dies. `deaths` counts them; every second death of Valkey takes its file
    with it, so that all it knew is lost."""

    name: Name
    server: PostgreSQL | Valkey
    folder: Path
    deaths: int = 0
    forgot: int = 0
    child: Child | None = None
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    serving_since: float = 0.0
    _keeping: "asyncio.Task[None] | None" = None

    async def start(self) -> None:
        """Serve, and from now on again after every death."""
        await self._serve()
        self._keeping = asyncio.create_task(self._keep())

    async def _serve(self) -> None:
        for left in reversed(range(RESTARTS_MAX)):
            child = self.child = await Child.start(self.server.command())
            try:
                await self.server.until_ready(child)
            except UpError:  # a session of the last server may still be on its way out
                await child.stop()
                if not left:
                    raise
            else:
                break
        assert self.child is not None
        _pid_file(self.folder, self.name).write_text(str(self.child.pid), encoding="ascii")
        self.serving_since = time.monotonic()
        self.serving.set()

    async def _keep(self) -> None:
        while True:
            assert self.child is not None
            await self.child.wait()
            self.serving.clear()
            self.deaths += 1
            if isinstance(self.server, Valkey) and self.deaths % 2 == 0:
                self.forgot += 1
                shutil.rmtree(self.server.data / "appendonlydir")
            await self._serve()

    def serves_for(self, seconds: float) -> bool:
        """Whether it has been serving for so long."""
        return self.serving.is_set() and time.monotonic() - self.serving_since >= seconds

    async def died(self, before: int, within_s: float) -> bool:
        """Waits for a death after the first `before` ones and for the return; False when none comes in time."""
        for _ in range(round(within_s / POLL_S)):
            if self.deaths > before:
                await self.serving.wait()
                return True
            await asyncio.sleep(POLL_S)
        return False

    def kill_session(self) -> int | None:
        """SIGKILL to one of PostgreSQL's sessions; the server ends all others and recovers. Its pid, None for none."""
        assert self.child is not None
        try:
            sessions = [one for one in psutil.Process(self.child.pid).children() if " sekisho " in one.cmdline()[0]]
            os.kill(sessions[0].pid, signal.SIGKILL)
        except (psutil.NoSuchProcess, ProcessLookupError, IndexError):
            return None
        return sessions[0].pid

    async def stop(self) -> None:
        """An orderly end. Raises what went wrong when it was to be started again."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self.child is not None:
            await self.child.stop()
        if self._keeping is not None and not self._keeping.cancelled():
            self._keeping.result()
