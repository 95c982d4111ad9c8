"""The bare vLLM command of an edge site, as printed: it records what it serves, and the records outlive it."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from tests.contract.asking import USAGE
from tests.e2e.stack import free_port
from tests.serving.scripted.process import REPOSITORY
from tests.vllm.engine import DATA_DIR, VllmEngine

pytestmark = pytest.mark.vllm

START_S_MAX = 240.0
RECORDED_S_MAX = 5.0
MESSAGES = [{"role": "user", "content": "Tell me about the sea."}]


def printed_command(data_dir: Path, model: str, port: int) -> list[str]:
    """What the operator would paste into a shell."""
    where = ("--catalogue", str(REPOSITORY / "serving" / "catalogue.yaml"), "--model", model, "--port", str(port))
    python = str(REPOSITORY / ".venv-serving" / "bin" / "python")
    argv = [python, "-m", "serving.command", *where, "--data-dir", str(data_dir)]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return shlex.split(done.stdout)


@pytest.fixture
def bare(vllm_engine: VllmEngine, tmp_path: Path) -> Iterator[tuple[httpx.Client, httpx.Client, psutil.Process]]:
    """A client of bare vLLM, one of the reader of its records, and the process. The model is that of the session."""
    (tmp_path / "models").symlink_to(DATA_DIR / "models")
    port, witness_port = free_port(), free_port()
    records = tmp_path / "served" / vllm_engine.model
    reader_argv = [sys.executable, "-m", "serving.witness", "--dir", str(records), "--port", str(witness_port)]
    with (
        (tmp_path / "vllm.log").open("wb") as log,
        subprocess.Popen(
            printed_command(tmp_path, vllm_engine.model, port), stdout=log, stderr=log, start_new_session=True
        ) as process,
        subprocess.Popen(reader_argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as reader,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as engine,
        httpx.Client(base_url=f"http://127.0.0.1:{witness_port}/witness", trust_env=False) as witness,
    ):
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline().startswith("witness: ")
            wait_until_ready(process, engine, tmp_path / "vllm.log")
            yield engine, witness, psutil.Process(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            reader.terminate()


def wait_until_ready(process: "subprocess.Popen[bytes]", engine: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + START_S_MAX
    while True:
        assert process.poll() is None, log.read_text(errors="replace")[-2_000:]
        assert time.monotonic() < deadline
        try:
            if engine.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)


def recorded(witness: httpx.Client, attempt_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + RECORDED_S_MAX
    while (answer := witness.get(f"/{attempt_id}")).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found: dict[str, Any] = answer.json()
    return found


def test_records_of_a_bare_engine_are_exact_and_outlive_it(
    bare: tuple[httpx.Client, httpx.Client, psutil.Process], vllm_engine: VllmEngine
) -> None:
    engine, witness, process = bare

    def body(**fields: Any) -> dict[str, Any]:
        return {"model": vllm_engine.model, "messages": MESSAGES, "max_tokens": 900, "ignore_eos": True, **fields}

    def stream(attempt_id: str, events: int, **fields: Any) -> dict[int, Any]:
        """The last usage per choice of the first events of a stream that is then left, or broken off by the engine."""
        seen: dict[int, Any] = {}
        headers = {"x-request-id": attempt_id}
        with engine.stream("POST", "/v1/chat/completions", json=body(**fields) | USAGE, headers=headers) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {") and (chunk := msgspec.json.decode(line[6:])).get("choices"):
                    seen[chunk["choices"][0]["index"]] = chunk["usage"]
                    events -= 1
                if events == 0:
                    break
        return seen

    # an answer
    headers = {"x-request-id": "bare-whole-1"}
    usage = engine.post("/v1/chat/completions", json=body(max_tokens=9, n=2), headers=headers).json()["usage"]
    whole = recorded(witness, "bare-whole-1")
    assert (whole["state"], whole["model"]) == ("finished", vllm_engine.model)
    assert (whole["prompt_tokens"], whole["completion_tokens"]) == (usage["prompt_tokens"], 18)

    # a client that leaves three choices
    seen = stream("bare-left-1", 15, n=3)
    left = recorded(witness, "bare-left-1")
    assert left["state"] == "aborted"
    assert left["prompt_tokens"] == usage["prompt_tokens"]
    assert 12 <= sum(part["completion_tokens"] for part in seen.values()) <= left["completion_tokens"] < 300

    # the death of the engine's core: its front end still says what it had generated
    core = next(child for child in process.children(recursive=True) if child.name() == "VLLM::EngineCore")
    headers = {"x-request-id": "bare-core-1"}
    received: dict[str, Any] = {}
    with engine.stream("POST", "/v1/chat/completions", json=body() | USAGE, headers=headers) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {") and (chunk := msgspec.json.decode(line[6:])).get("choices"):
                received = chunk["usage"]
                if received["completion_tokens"] == 5:
                    core.send_signal(signal.SIGKILL)
    cut = recorded(witness, "bare-core-1")
    assert cut["state"] == "aborted"
    assert 5 <= received["completion_tokens"] <= cut["completion_tokens"] < 900

    # and the death of everything but the reader
    os.killpg(process.pid, signal.SIGKILL)
    assert [recorded(witness, record["attempt_id"]) for record in (whole, left, cut)] == [whole, left, cut]
