"""The upstreams that the contract is run against.

``scripted`` is started here. ``vllm`` is real vLLM under Ray Serve: the one at SEKISHO_TEST_VLLM_URL when that is set
(with or without ``/v1``), else one started here. An engine that does not start is an error of the run, never a skip.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from tests.serving.scripted.process import REPOSITORY, engine

VLLM_START_S_MAX = 240.0
VLLM_STOP_S_MAX = 30.0
DATA_DIR = REPOSITORY / ".sekisho-test"


@dataclass(frozen=True)
class Upstream:
    """One engine under test. ``model`` answers at once; ``slow_model`` has few slots, for tests that fill them."""

    kind: str
    root: str
    model: str
    slow_model: str


@pytest.fixture(scope="session", params=["scripted", pytest.param("vllm", marks=pytest.mark.vllm)])
def upstream(request: pytest.FixtureRequest) -> Iterator[Upstream]:
    """Each upstream in turn."""
    started = _scripted() if request.param == "scripted" else _vllm()
    with started as found:
        yield found


@pytest.fixture
async def client(upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the upstream; the time-out covers a CPU engine that has several requests to answer."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=upstream.root, timeout=120, limits=limits) as made:
        yield made


@contextlib.contextmanager
def _scripted() -> Iterator[Upstream]:
    with engine() as running:
        yield Upstream("scripted", running.root, "scripted-small", "scripted-narrow")


@contextlib.contextmanager
def _vllm() -> Iterator[Upstream]:
    given = os.environ.get("SEKISHO_TEST_VLLM_URL")
    if given:
        yield _ready(given.rstrip("/").removesuffix("/v1"), None, Path(os.devnull))
        return
    DATA_DIR.mkdir(exist_ok=True)
    port, log = _free_port(), DATA_DIR / "serving.log"
    with log.open("wb") as output:
        process = _spawn_vllm(port, output.fileno())
        try:
            yield _ready(f"http://127.0.0.1:{port}", process, log)
        finally:
            _stop(process)


def _spawn_vllm(port: int, output: int) -> subprocess.Popen[bytes]:
    catalogue = REPOSITORY / "serving" / "catalogue.yaml"
    models = yaml.safe_load(catalogue.read_text(encoding="utf-8"))["models"]
    model = os.environ.get("SEKISHO_TEST_VLLM_MODEL") or models[0]["id"]
    python = REPOSITORY / ".venv-serving" / "bin" / "python"
    command = [str(python), "-m", "serving.run", "--catalogue", str(catalogue), "--model", model]
    # A session of its own: Ray starts processes that must all be gone afterwards.
    return subprocess.Popen(
        [*command, "--port", str(port), "--data-dir", str(DATA_DIR)],
        cwd=REPOSITORY,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _ready(root: str, process: subprocess.Popen[bytes] | None, log: Path) -> Upstream:
    """Waits until the engine answers a first request, not only lists its model."""
    deadline = time.monotonic() + VLLM_START_S_MAX
    last = "no answer yet"
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"serving.run ended with {process.returncode}:\n{_tail(log)}")
        try:
            model = httpx.get(f"{root}/v1/models", timeout=5).json()["data"][0]["id"]
            body = {"model": model, "prompt": "a", "max_tokens": 1}
            httpx.post(f"{root}/v1/completions", json=body, timeout=30).raise_for_status()
        except (httpx.HTTPError, ValueError, LookupError) as error:
            last = repr(error)
            time.sleep(1)
        else:
            return Upstream("vllm", root, model, model)
    raise RuntimeError(f"no engine at {root} after {VLLM_START_S_MAX:.0f} s ({last}):\n{_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(VLLM_STOP_S_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
