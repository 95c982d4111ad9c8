"""One child process: started in a session of its own with its output in a log, and ended with all its descendants."""

import asyncio
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gateway.up.failure import UpError
from gateway.up.lifeline import die_with_parent
from gateway.up.privileges import Account

LOG_BYTES_MAX = 20 * 10**6
READY_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Command:
    """What to run and how it wants to be ended.

    `stop_signal` asks it to finish, `stop_s_max` is how long it may take before it is killed. `death_signal` is what
    the kernel sends it should the supervisor die without a word.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str]
    cwd: Path = Path("/")
    stop_signal: signal.Signals = signal.SIGTERM
    stop_s_max: float = 5.0
    death_signal: signal.Signals = signal.SIGKILL
    account: Account | None = None


class Child:
    """A running `Command`. It leads its own session and process group, so a Ctrl-C at the terminal passes it by."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process) -> None:
        self.command = command
        self._process = process
        self._ended = asyncio.create_task(process.wait())

    @classmethod
    async def start(cls, command: Command) -> "Child":
        """Starts it. Raises `UpError` where the program cannot be run at all."""
        try:
            with _open_log(command.log) as log:
                process = await asyncio.create_subprocess_exec(
                    *command.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    cwd=command.cwd,
                    env=dict(command.env),
                    start_new_session=True,
                    preexec_fn=_before_exec(command),
                )
        except OSError as error:
            raise UpError(f"{command.name} cannot be started ({error})", "install again: make install") from error
        return cls(command, process)

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its session and group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """False once it has ended."""
        return not self._ended.done()

    async def wait(self) -> int:
        """Its exit code, negative for a signal. May be awaited by several and cancelled without harm."""
        return await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Asks it to finish, waits, and kills what is left of its group. Never raises for a child that has gone."""
        if self.running:
            self._signal_leader(self.command.stop_signal)
            try:
                await asyncio.wait_for(self.wait(), self.command.stop_s_max)
            except TimeoutError:
                self.kill()
        self.kill()  # descendants that outlived their leader
        await self.wait()

    def kill(self) -> None:
        """SIGKILL to its whole group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _signal_leader(self, number: signal.Signals) -> None:
        try:
            self._process.send_signal(number)
        except ProcessLookupError:
            return

    def last_lines(self, count: int = 12) -> str:
        """The end of its log."""
        return last_lines(self.command.log, count)


async def until_ready(child: Child, is_ready: Callable[[], Awaitable[bool]], *, within_s: float) -> None:
    """Returns when `is_ready` says so. Raises `UpError` when the child ends before, or not in time."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not await is_ready():
        if not child.running:
            raise died(child, await child.wait())
        if asyncio.get_running_loop().time() > deadline:
            raise UpError(
                f"{child.command.name} was not ready after {within_s:.0f} s",
                f"see {child.command.log}",
                detail=child.last_lines(),
            )
        await asyncio.sleep(READY_POLL_S)


def died(child: Child, code: int) -> UpError:
    """The error for a child that has ended though it should run."""
    return UpError(f"{child.command.name} {describe_exit(code)}", f"see {child.command.log}", detail=child.last_lines())


def describe_exit(code: int) -> str:
    """An exit code in words."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def last_lines(log: Path, count: int) -> str:
    """The last `count` lines of a log, or nothing where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64 * 1024))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(deque((line for line in lines if line.strip()), maxlen=count))


def _open_log(log: Path) -> IO[bytes]:
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_suffix(".log.1"))
    return log.open("ab")


def _before_exec(command: Command) -> Callable[[], None]:
    die = die_with_parent(command.death_signal)

    def prepare() -> None:
        if command.account is not None:
            command.account.assume()
        die()  # last: the kernel forgets it at a change of user

    return prepare
