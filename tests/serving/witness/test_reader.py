"""The reader process: what it serves and to whom, and that it comes back."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serving.witness.child import ReaderChild
from serving.witness.types import Witness, line_of
from tests.serving.scripted.process import REPOSITORY

WAIT_S = 20.0


def a_record(attempt_id: str) -> Witness:
    return Witness(attempt_id, "m", "aborted", 7, 3, 2, 0, "abort", 1.0, 2.0, image_tokens=4)


def spawn(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "serving.witness", *arguments],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@contextlib.contextmanager
def reader(folder: Path, *arguments: str) -> Iterator[str]:
    """The address of a reader over `folder`."""
    with spawn("--dir", str(folder), "--port", "0", *arguments) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found is not None, line + process.communicate()[1]
            yield found[0]
        finally:
            process.terminate()
            assert process.wait(WAIT_S) == 0


def test_records_are_served_while_they_are_written_and_no_other_file_is(tmp_path: Path) -> None:
    folder = tmp_path / "served"
    (tmp_path / "secret.jsonl").write_bytes(line_of(a_record("s-1")))
    with reader(folder) as url, httpx.Client(trust_env=False) as client:
        assert client.get(url).json() == {"files": []}
        assert client.get(f"{url}/r-1").status_code == 404
        folder.mkdir()
        (folder / "1.jsonl").write_bytes(line_of(a_record("r-1")))
        found = client.get(f"{url}/r-1").json()
        assert (found["state"], found["image_tokens"], found["audio_tokens"]) == ("aborted", 4, 0)
        size = (folder / "1.jsonl").stat().st_size
        assert client.get(url).json() == {"files": [{"file": "1.jsonl", "size": size}]}
        page = client.get(url, params={"file": "1.jsonl"}).json()
        assert page == {"file": "1.jsonl", "next": size, "more": False, "records": [found]}
        assert client.get(url, params={"file": "1.jsonl", "after": size}).json()["records"] == []
        for name in ("2.jsonl", "../secret.jsonl", str(tmp_path / "secret.jsonl"), "", "1.jsonl\x00"):
            answer = client.get(url, params={"file": name})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_file")
        for name, value in (("after", "-1"), ("after", "x"), ("limit", "0"), ("limit", "5001"), ("limit", "²")):
            answer = client.get(url, params={"file": "1.jsonl", name: value})
            assert (answer.status_code, answer.json()["error"]["field"]) == (400, name)


def test_every_line_of_the_token_file_opens_and_the_file_may_change(tmp_path: Path) -> None:
    token_file = tmp_path / "witness.token"
    token_file.write_text("old\n")

    def status(client: httpx.Client, url: str, token: str) -> int:
        return client.get(url, headers={"authorization": f"Bearer {token}"}).status_code

    with reader(tmp_path, "--token-file", str(token_file)) as url, httpx.Client(trust_env=False) as client:
        assert client.get(url).status_code == 401
        assert [status(client, url, token) for token in ("old", "new", "old\nnew"[:3] + "x")] == [200, 401, 401]
        token_file.write_text("new\n\nold\n")
        assert [status(client, url, token) for token in ("old", "new", "xyz")] == [200, 200, 401]
        token_file.write_text("new-and-longer\n")
        assert [status(client, url, token) for token in ("old", "new", "new-and-longer")] == [401, 401, 200]
        token_file.unlink()
        assert status(client, url, "new-and-longer") == 401


def test_a_reader_without_a_token_where_one_is_wanted_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for file in ("missing", "empty"):
        done = spawn("--dir", str(tmp_path), "--port", "0", "--token-file", str(tmp_path / file))
        out, errors = done.communicate(timeout=WAIT_S)
        assert (done.returncode, out, len(errors.splitlines())) == (2, "", 1)
        assert "no token in" in errors


def test_the_reader_of_a_supervisor_is_started_again_and_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    child = ReaderChild(tmp_path, 0, None)
    child.keep()
    first = child._process
    assert first is not None
    first.send_signal(signal.SIGKILL)
    first.wait(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while child._process is first:
        child.keep()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = child._process
    assert second is not None
    assert second.poll() is None
    second.terminate()
    assert second.wait(WAIT_S) in (0, -signal.SIGTERM)


def test_a_reader_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from serving.witness.child import ReaderChild;"
        f" child = ReaderChild(Path({str(tmp_path)!r}), 0, None); child.keep();"
        " print(child._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=dict(os.environ), stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        assert parent.stdout.readline().startswith("witness: http://127.0.0.1:")
        parent.kill()
    process.wait(WAIT_S)
    assert not process.is_running()


def test_the_heavy_runtimes_are_not_imported() -> None:
    program = (
        "import sys, serving.witness.__main__;"
        " print(sorted({'ray', 'vllm', 'torch', 'gateway', 'billing'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
