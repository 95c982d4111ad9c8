"""More gateway processes on the stores of a stack, as a production of several replicas has them."""

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.e2e.stack import POLL_S, START_S_MAX, STOP_S_MAX, Stack, free_port
from tests.serving.scripted.process import REPOSITORY


@dataclass(frozen=True)
class Replica:
    """One more gateway."""

    root: str
    process: "subprocess.Popen[bytes]"

    @property
    def port(self) -> int:
        """Its data port."""
        return int(self.root.rpartition(":")[2])

    @property
    def base_url(self) -> str:
        """Its data plane, with `/v1`."""
        return f"{self.root}/v1"


@contextlib.contextmanager
def replicas(stack: Stack, number: int, log: Path) -> Iterator[list[Replica]]:
    """`number` more gateways that serve; all are gone at the end."""
    with contextlib.ExitStack() as held:
        yield [held.enter_context(replica(stack, log.with_suffix(f".{one}.log"))) for one in range(number)]


@contextlib.contextmanager
def replica(
    stack: Stack,
    log: Path,
    module: str = "gateway.cli",
    environment: Mapping[str, str] | None = None,
    tls: Sequence[str] = (),
) -> Iterator[Replica]:
    """One more gateway, run as `python -m <module> gateway`; `environment` is added to the stack's, `tls` to its
    options."""
    port = free_port()
    python = REPOSITORY / ".venv" / "bin" / "python"
    ops_port = free_port()
    argv = [str(python), "-m", module, "gateway", "--port", str(port), "--ops-port", str(ops_port), *tls]
    env = {**stack.environment, **(environment or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, env=env, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        _until_ready(f"http://127.0.0.1:{ops_port}/readyz", process, log)
        yield Replica(f"http{'s' if tls else ''}://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S_MAX
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"a replica did not come up:\n{log.read_text(errors='replace')}")
        time.sleep(POLL_S)
