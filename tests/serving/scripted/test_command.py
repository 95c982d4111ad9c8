"""The command: what it prints, how it ends, and what it does not import."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.serving.scripted.process import REPOSITORY, engine, spawn


def failed(*arguments: str) -> str:
    process = spawn(*arguments)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert len(errors.splitlines()) == 1
    return errors


def test_the_built_in_scenarios_are_served_on_a_free_port_and_sigterm_exits_0_quickly() -> None:
    with engine() as running:
        models = httpx.get(f"{running.root}/v1/models").json()["data"]
        assert "scripted-small" in {model["id"] for model in models}
        assert httpx.get(f"{running.root}/health").status_code == 200
        start = time.monotonic()
        assert running.terminate() == 0
        assert time.monotonic() - start < 4


@pytest.mark.parametrize("model", ["scripted-slow", "scripted-hang-headers", "scripted-hang-first-byte"])
def test_sigterm_ends_attempts_under_way_and_records_them(model: str, tmp_path: Path) -> None:
    served = tmp_path / "served.jsonl"
    with engine("--record", str(served)) as running:
        body = b'{"model":"%s","messages":[{"role":"user","content":"hi"}],"stream":true}' % model.encode()
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: s-1\r\ncontent-type: application/json\r\n"
        )
        port = int(running.root.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            deadline = time.monotonic() + 5
            while httpx.get(f"{running.root}/witness/s-1").status_code == 404:
                assert time.monotonic() < deadline
            assert running.terminate() == 0
    assert served.read_text().count('"state":"aborted"') == 1


def test_a_port_that_is_taken_is_one_line_and_exit_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Name a free port" in failed("--port", str(taken.getsockname()[1]))


def test_a_broken_scenario_file_is_one_line_and_exit_2(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("version: 1\nmodels: {m: {text: a, sped: 1}}", encoding="utf-8")
    assert "models.m.sped: unknown field" in failed("--port", "0", "--scenarios", str(file))


def test_a_record_that_cannot_be_written_is_one_line_and_exit_2(tmp_path: Path) -> None:
    assert "cannot be written" in failed("--port", "0", "--record", str(tmp_path))


def test_the_heavy_runtimes_are_not_imported() -> None:
    program = (
        "import sys, serving.scripted.__main__; "
        "print(sorted({'ray', 'vllm', 'torch', 'transformers', 'gateway', 'billing'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
