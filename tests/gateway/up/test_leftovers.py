"""What an earlier start left behind is found and ended, and nothing else is."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.up.leftovers import INSTANCE_VARIABLE, Record, boot_id, end_leftovers, started_ticks

_SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


@pytest.fixture
def sleepers() -> Iterator[Any]:
    """`sleepers(**environment)` starts a process that sleeps a minute; all are gone after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(argv: list[str] = _SLEEP, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv, env={**os.environ, **environment}, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        return False
    return True


def test_start_time_is_read_behind_a_name_with_parentheses_and_spaces(tmp_path: Path, sleepers: Any) -> None:
    odd = tmp_path / "a) S (b"
    shutil.copy("/bin/sleep", odd)
    process = subprocess.Popen([str(odd), "30"])
    try:
        ticks = started_ticks(process.pid)
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        assert ticks is not None
        assert abs(ticks / os.sysconf("SC_CLK_TCK") - uptime) < 30
    finally:
        process.kill()
        process.wait(10)
    assert started_ticks(process.pid) is None


def test_recorded_process_is_ended_and_named(tmp_path: Path, sleepers: Any) -> None:
    process = sleepers()
    record = Record(tmp_path / "processes.json")
    record.add("worker", process.pid, 15)
    assert end_leftovers(tmp_path / "processes.json", tmp_path / "pg") == ["worker"]
    assert _ended(process)
    assert not (tmp_path / "processes.json").exists()


def test_process_that_ignores_sigterm_is_killed(tmp_path: Path, sleepers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.up.leftovers.END_S_MAX", 0.3)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    process = sleepers([sys.executable, "-c", deaf])
    record = Record(tmp_path / "processes.json")
    record.add("gateway", process.pid, 15)
    end_leftovers(tmp_path / "processes.json", tmp_path / "pg")
    assert _ended(process)


@pytest.mark.parametrize("changed", ["started_ticks", "boot"])
def test_process_that_only_got_the_same_pid_is_left_alone(tmp_path: Path, sleepers: Any, changed: str) -> None:
    process = sleepers()
    ticks = started_ticks(process.pid)
    assert ticks is not None
    child = {"name": "gateway", "pid": process.pid, "started_ticks": ticks, "stop_signal": 15}
    content = {"boot": boot_id(), "instance": "0" * 32, "children": [child]}
    if changed == "boot":
        content["boot"] = "another"
    else:
        child["started_ticks"] = ticks - 1
    (tmp_path / "processes.json").write_text(json.dumps(content))
    assert end_leftovers(tmp_path / "processes.json", tmp_path / "pg") == []
    assert process.poll() is None


def test_descendant_in_a_session_of_its_own_is_found_by_the_instance(tmp_path: Path, sleepers: Any) -> None:
    record = Record(tmp_path / "processes.json")
    record.write()
    mine = sleepers(**{INSTANCE_VARIABLE: record.instance})
    others = sleepers(**{INSTANCE_VARIABLE: "f" * 32})
    assert end_leftovers(tmp_path / "processes.json", tmp_path / "pg") == ["a helper process"]
    assert _ended(mine)
    assert others.poll() is None


@pytest.mark.parametrize("content", ["", '{"boot": 1', "[]", '{"boot": "x"}'])
def test_record_that_was_cut_short_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / "processes.json").write_text(content)
    assert end_leftovers(tmp_path / "processes.json", tmp_path / "pg") == []
