"""Starts the scripted engine as a process of its own, the way `sekisho up` and the load tests do."""

import contextlib
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
START_S_MAX = 20.0
STOP_S_MAX = 5.0


@dataclass(frozen=True)
class EngineProcess:
    """A running engine: ``root`` is its address without a path."""

    process: subprocess.Popen[str]
    root: str

    def terminate(self) -> int:
        """SIGTERM; the exit code. Fails when it does not leave in time."""
        self.process.terminate()
        return self.process.wait(STOP_S_MAX)


def spawn(*arguments: str) -> subprocess.Popen[str]:
    """Starts the module with these arguments; the caller waits for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "serving.scripted", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def engine(*arguments: str, stderr: list[str] | None = None) -> Iterator[EngineProcess]:
    """An engine on a free loopback port, stopped at the end; what it wrote on stderr is appended to ``stderr``."""
    process = spawn("--port", "0", *arguments)
    try:
        yield EngineProcess(process, _address(process))
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            _, errors = process.communicate(timeout=STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        if stderr is not None:
            stderr.append(errors)


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + START_S_MAX
    ready, _, _ = select.select([process.stdout], [], [], deadline - time.monotonic())
    line = process.stdout.readline() if ready else ""
    match = re.search(r"listening on (http://\S+)", line)
    if match is None:
        process.kill()
        raise RuntimeError(f"the scripted engine did not start: {line!r} {process.communicate()[1]}")
    return match.group(1)
