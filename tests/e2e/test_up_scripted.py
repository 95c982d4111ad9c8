"""`make up ENGINE=scripted` as a newcomer uses it: from a terminal, a script, twice, and killed in every way."""

import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from gateway.up.folder import DataFolder
from tests.e2e.stack import SEKISHO

ROOT = Path(__file__).resolve().parents[2]
READY_S_MAX = 120.0  # 10 s are promised on an idle machine
STOP_S_MAX = 20.0

pytestmark = pytest.mark.e2e


@dataclass
class Up:
    """One `make up` in a session of its own, as a terminal or a service manager would start it."""

    make: subprocess.Popen[bytes]
    data: Path
    output: Path

    def wait_ready(self) -> dict[str, Any]:
        """The content of `up.json` as soon as this start has written it (a killed one may have left another)."""
        self.wait(lambda: "Stop: " in self.said(), READY_S_MAX, "it is not ready")
        content: dict[str, Any] = json.loads((self.data / "up.json").read_text(encoding="utf-8"))
        return content

    def wait_end(self) -> int:
        """The exit code of make."""
        try:
            return self.make.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            pytest.fail(f"make runs on after {STOP_S_MAX} s; it said:\n{self.said()}")

    def said(self) -> str:
        """What make printed so far."""
        return self.output.read_text(encoding="utf-8")

    def wait(self, condition: Callable[[], bool], within_s: float, otherwise: str) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert self.make.poll() is None, f"make ended with {self.make.returncode}; it said:\n{self.said()}"
            assert time.monotonic() < deadline, f"{otherwise}; make said:\n{self.said()}"
            time.sleep(0.05)


def _ignore_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _make_up(
    tmp_path: Path, *variables: str, sigint_ignored: bool = False, engine: str = "ENGINE=scripted"
) -> Iterator[Up]:
    data, output = tmp_path / "data", tmp_path / "output"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SEKISHO_")}
    with output.open("wb") as out:
        make = subprocess.Popen(
            ["make", "--no-print-directory", "up", engine, f"DATA_DIR={data}", *variables],
            cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=_ignore_sigint if sigint_ignored else None,
        )  # fmt: skip
    up = Up(make, data, output)
    try:
        yield up
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGTERM)
            up.wait_end()


def _of(data: Path) -> list[psutil.Process]:
    """Everything that runs for a data folder: it is named on the command line or in the environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if process.status() != psutil.STATUS_ZOMBIE and any(str(data) in word for word in words):
            found.append(process)
    return found


def _assert_nothing_left(data: Path, pids: dict[str, int]) -> None:
    def left() -> list[object]:
        """By what they carry, and by pid: a process on its way out has lost the one and still has the other."""
        named = [name for name, pid in pids.items() if psutil.pid_exists(pid) and not _zombie(pid)]
        return [*named, *(p for p in _of(data) if p.pid != os.getpid())]

    deadline = time.monotonic() + STOP_S_MAX
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left() == []
    assert _listening(data) == []


def _zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _listening(data: Path) -> list[tuple[str, int]]:
    """(address, port) of every TCP socket on which a process of this data folder, or a child of one, listens."""
    pids = {child.pid for process in _of(data) for child in (process, *process.children(recursive=True))}
    found = []
    for connection in psutil.net_connections(kind="inet"):
        listens = connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
        if connection.pid in pids and listens and connection.laddr:
            found.append((connection.laddr.ip, connection.laddr.port))
    return found


def _ask(ready: dict[str, Any]) -> str:
    with openai.OpenAI(base_url=ready["base_url"], api_key=ready["api_key"], max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "What is a checkpoint?"}]
        answer = client.chat.completions.create(model=ready["model"], messages=messages, max_tokens=16)
        streamed = client.chat.completions.create(model=ready["model"], messages=messages, max_tokens=16, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 16
    assert text
    return answer.choices[0].message.content or ""


def _sekisho(data: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [str(SEKISHO), "--data-dir", str(data), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def _licence_is_signed(data: Path, path: Path) -> None:
    """The demo's licence verifies, and one flipped byte of its payload is found."""
    assert path == data / "licences" / "lic-demo.dsse.json"
    verified = _sekisho(data, "licence", "verify", str(path))
    assert (verified.returncode, verified.stderr) == (0, "")
    text = bytearray(path.read_bytes())
    text[text.index(b'"payload":"') + 40] ^= 1
    broken = path.with_name("broken.dsse.json")
    broken.write_bytes(text)
    refused = _sekisho(data, "licence", "verify", str(broken))
    assert refused.returncode == 1
    assert refused.stdout.split()[0] in ("signature_invalid", "malformed_envelope", "not_canonical")
    broken.unlink()


def _admin_answers(ready: dict[str, Any]) -> None:
    for key, status in ((ready["admin_key"], 200), (ready["api_key"], 401)):
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(ready["admin_url"] + "/tenants", headers=headers, trust_env=False).status_code == status


def test_first_request_succeeds_and_up_json_says_all_that_it_takes(tmp_path: Path) -> None:
    with _make_up(tmp_path) as up:
        ready = up.wait_ready()
        assert stat.S_IMODE((up.data / "up.json").stat().st_mode) == 0o600
        assert set(ready) == {
            "base_url", "api_key", "model", "admin_url", "admin_key", "ops_url", "licence_path", "trust_path", "engine",
            "pids",
        }  # fmt: skip
        assert ready["base_url"].endswith("/v1")
        assert ready["engine"] == "scripted"
        _licence_is_signed(up.data, Path(ready["licence_path"]))
        _admin_answers(ready)
        assert all(psutil.pid_exists(pid) for pid in ready["pids"].values())
        assert set(ready["pids"]) >= {"supervisor", "gateway", "worker", "engine", "postgresql", "valkey"}
        assert _ask(ready)

        said = up.said()
        for part in (ready["base_url"], ready["api_key"], "curl -N ", "from openai import OpenAI", "Stop:"):
            assert part in said

        # the curl line as it was printed
        lines = said.splitlines()
        first = next(number for number, line in enumerate(lines) if line.lstrip().startswith("curl"))
        argv = ["sh", "-c", "\n".join(lines[first : first + 2])]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.rstrip().endswith("data: [DONE]")


def test_everything_listens_on_loopback_only(tmp_path: Path) -> None:
    with _make_up(tmp_path) as up:
        ready = up.wait_ready()
        listening = _listening(up.data)
        ports = {port for _, port in listening}
        assert int(ready["base_url"].split(":")[2].removesuffix("/v1")) in ports
        assert int(ready["ops_url"].split(":")[2]) in ports
        assert {address for address, _ in listening} == {"127.0.0.1"}
        assert len(listening) == 4  # data, operations, administration, engine: the stores have no port at all
        sockets = [c.laddr for c in psutil.net_connections(kind="unix") if c.laddr and "sekisho-" in str(c.laddr)]
        assert all(len(os.fsencode(str(path))) < 100 for path in sockets)


def test_second_instance_on_the_folder_is_refused_and_the_first_serves_on(tmp_path: Path) -> None:
    with _make_up(tmp_path) as up:
        ready = up.wait_ready()
        with _make_up_beside(tmp_path, up.data) as second:
            assert second.wait(READY_S_MAX) != 0
            assert second.stdout is not None
            said = second.stdout.read().decode()
        assert f"another instance (pid {ready['pids']['supervisor']}) runs on {up.data}" in said
        assert json.loads((up.data / "up.json").read_text()) == ready
        assert _ask(ready)


@contextmanager
def _make_up_beside(tmp_path: Path, data: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = ["make", "up", "ENGINE=scripted", f"DATA_DIR={data}"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as make:
        yield make


def test_two_clones_are_up_at_once_and_a_named_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    with _make_up(tmp_path / "a") as first, _make_up(tmp_path / "b") as second:
        one, two = first.wait_ready(), second.wait_ready()
        assert one["base_url"] != two["base_url"]
        assert one["api_key"] != two["api_key"]
        assert _ask(one)
        assert _ask(two)
        taken = one["base_url"].split(":")[2].removesuffix("/v1")
        with _make_up(tmp_path / "c", f"PORT={taken}") as third:
            assert third.wait_end() != 0
            assert f"port {taken} is taken; name another one with PORT=…" in third.said()
            _assert_nothing_left(third.data, {})


def test_key_and_usage_survive_a_restart(tmp_path: Path) -> None:
    with _make_up(tmp_path) as up:
        first = up.wait_ready()
    with _make_up(tmp_path) as up:
        second = up.wait_ready()
        assert second["api_key"] == first["api_key"]
        assert _ask(second)


@pytest.mark.parametrize("sigint_ignored", [False, True], ids=["", "SIGINT ignored"])
@pytest.mark.parametrize("to", ["make", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_everything_in_time(tmp_path: Path, number: signal.Signals, to: str, sigint_ignored: bool) -> None:
    with _make_up(tmp_path, sigint_ignored=sigint_ignored) as up:
        ready = up.wait_ready()
        began = time.monotonic()
        if to == "make":
            up.make.send_signal(number)
        else:
            os.killpg(up.make.pid, number)
        up.wait_end()
        _assert_nothing_left(up.data, ready["pids"])
        assert time.monotonic() - began < STOP_S_MAX
        assert not (up.data / "up.json").exists()
        assert "stopped" in up.said()


def test_signal_during_the_start_stops_what_has_started(tmp_path: Path) -> None:
    with _make_up(tmp_path) as up:
        up.wait(lambda: (up.data / "processes.json").exists(), READY_S_MAX, "nothing was started")
        os.killpg(up.make.pid, signal.SIGTERM)
        up.wait_end()
        _assert_nothing_left(up.data, {})
        assert not (up.data / "up.json").exists()


def test_sigkill_of_the_supervisor_leaves_nothing_behind(tmp_path: Path) -> None:
    with _make_up(tmp_path) as up:
        ready = up.wait_ready()
        os.kill(ready["pids"]["supervisor"], signal.SIGKILL)
        up.wait_end()
        _assert_nothing_left(up.data, ready["pids"])
        assert (up.data / "up.json").exists()  # stale now, and removed by the next start
    with _make_up(tmp_path) as up:
        again = up.wait_ready()
        assert again["pids"] != ready["pids"]
        assert _ask(again)


def test_leftovers_of_a_killed_start_are_ended_and_told(tmp_path: Path) -> None:
    data = DataFolder.at(tmp_path / "data")
    with _make_up(tmp_path) as up:
        ready = up.wait_ready()
        record = data.record_file.read_text()
    with subprocess.Popen(["sleep", "600"]) as left:
        # a child of an earlier start that nothing ended: it is in the record, under its own start time
        children = json.loads(record)
        entry = dict(children["children"][0], name="worker", pid=left.pid)
        entry["started_ticks"] = int(Path(f"/proc/{left.pid}/stat").read_text().rpartition(")")[2].split()[19])
        data.record_file.write_text(json.dumps({**children, "children": [entry]}))
        with _make_up(tmp_path) as up:
            assert up.wait_ready()["api_key"] == ready["api_key"]
            assert "ended what an earlier start had left behind: worker" in up.said()
        assert left.wait(5) == -signal.SIGTERM


@pytest.mark.parametrize("victim", ["gateway", "worker", "engine"])
def test_killed_part_comes_back_and_serves(tmp_path: Path, victim: str) -> None:
    with _make_up(tmp_path) as up:
        ready = up.wait_ready()
        os.kill(ready["pids"][victim], signal.SIGKILL)
        up.wait(lambda: f"{victim} is back" in up.said(), READY_S_MAX, f"{victim} did not come back")
        again = up.wait_ready()
        assert again["pids"][victim] != ready["pids"][victim]
        assert _ask(again)


def test_death_of_a_store_stops_all_with_its_last_words(tmp_path: Path) -> None:
    with _make_up(tmp_path) as up:
        ready = up.wait_ready()
        os.kill(ready["pids"]["valkey"], signal.SIGKILL)
        assert up.wait_end() == 2
        assert "sekisho up: valkey was ended by SIGKILL; see " in up.said()
        assert "Ready to accept connections" in up.said()
        _assert_nothing_left(up.data, ready["pids"])
        assert not (up.data / "up.json").exists()


def test_engine_that_runs_elsewhere_serves_behind_the_gateway(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with _make_up(tmp_path / "a") as first:
        first.wait_ready()
        engine = _engine_port(first)
        upstream = f"UPSTREAM=http://127.0.0.1:{engine}/v1"
        with _make_up(tmp_path / "b", upstream, "MODEL=scripted-small") as second:
            ready = second.wait_ready()
            assert ready["engine"] == "upstream"
            assert "engine" not in ready["pids"]
            assert _ask(ready)
        with _make_up(tmp_path / "b", upstream, "MODEL=no-such-model") as third:
            assert third.wait_end() != 0
            assert "does not serve no-such-model; name one with MODEL=…: " in third.said()


def _engine_port(up: Up) -> int:
    engine = up.wait_ready()["pids"]["engine"]
    ports = [
        c.laddr.port
        for c in psutil.net_connections(kind="inet")
        if c.pid == engine and c.status == "LISTEN" and c.laddr
    ]
    return int(ports[0])


def test_upstream_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with _make_up(tmp_path, "UPSTREAM=http://127.0.0.1:9/v1", "MODEL=m") as up:
        assert up.wait_end() != 0
        assert "UPSTREAM=http://127.0.0.1:9/v1 gives no list of models" in up.said()
        _assert_nothing_left(up.data, {})
