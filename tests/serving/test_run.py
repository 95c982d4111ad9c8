"""Nothing of an engine is left behind, and nothing is started where it could not work. Neither Ray nor vLLM here."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from serving import catalogue, run

ROOT = Path(catalogue.__file__).parents[1]
WAIT_S = 30

# Like vLLM's processes: out of sight (a session of its own, its parent dead), with shared memory that nobody removes.
ORPHAN = """
import mmap, multiprocessing, os, pathlib, time
from multiprocessing import resource_tracker
memory = pathlib.Path("/dev/shm") / f"psm_test_{os.getpid()}"
memory.write_bytes(bytes(4096))
with memory.open("r+b") as file:
    held = mmap.mmap(file.fileno(), 4096)
lock = multiprocessing.get_context("spawn").Lock()  # a named semaphore, whose file is mapped under another name
resource_tracker.unregister(lock._semlock.name, "semaphore")
print(os.getpid(), memory.name, "sem." + lock._semlock.name.lstrip("/"), flush=True)
time.sleep(600)
"""
MIDDLE = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", os.environ["ORPHAN"]], start_new_session=True)
os._exit(0)
"""
# Stands for Ray's driver, and ignores SIGTERM as a hung one would.
DRIVER = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
subprocess.run([sys.executable, "-c", os.environ["MIDDLE"]], check=True)
time.sleep(600)
"""
SUPERVISOR = """
import os, signal, sys
from serving import run
run.DRIVER_STOP_S_MAX = 0.5
signal.signal(signal.SIGTERM, run._on_signal)
try:
    run._supervise([sys.executable, "-c", os.environ["DRIVER"]], dict(os.environ), os.getppid())
except run._Stop:
    print("stopped", flush=True)
"""


@dataclass(frozen=True, slots=True)
class Family:
    """A supervisor, its driver, and what the driver lost sight of."""

    supervisor: "subprocess.Popen[str]"
    driver: psutil.Process
    orphan: psutil.Process
    memory: tuple[Path, ...]

    def memory_left(self) -> list[Path]:
        """The orphan's shared memory, as far as it exists."""
        return [file for file in self.memory if file.exists()]

    def finish(self) -> str:
        """What the supervisor still said before it ended."""
        return self.supervisor.communicate(timeout=WAIT_S)[0]


@contextmanager
def family() -> Iterator[Family]:
    """Runs the three and kills what a failed test leaves."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), "DRIVER": DRIVER, "MIDDLE": MIDDLE, "ORPHAN": ORPHAN}
    command = [sys.executable, "-c", SUPERVISOR]
    with subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        driver = psutil.Process(int(supervisor.stdout.readline()))
        pid, *names = supervisor.stdout.readline().split()
        orphan = psutil.Process(int(pid))
        running = Family(supervisor, driver, orphan, tuple(Path("/dev", "shm", name) for name in names))
        try:
            yield running
        finally:
            supervisor.kill()
            for process in (driver, orphan):
                if process.is_running():
                    process.kill()
            for file in running.memory_left():
                file.unlink()


def test_stop_ends_what_left_the_family_and_removes_its_shared_memory() -> None:
    with family() as running:
        assert len(running.memory_left()) == 2
        running.supervisor.send_signal(signal.SIGTERM)
        assert running.finish() == "stopped\n"
        assert not running.driver.is_running()
        assert not running.orphan.is_running()
        assert running.memory_left() == []


def test_driver_that_dies_takes_everything_with_it() -> None:
    with family() as running:
        running.driver.kill()
        running.finish()
        assert running.supervisor.returncode != 0
        assert not running.orphan.is_running()
        assert running.memory_left() == []


def test_taken_port_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ["--catalogue", str(ROOT / "serving" / "catalogue.yaml"), "--model", "smollm2-135m"]
        assert run.main([*options, "--port", str(port), "--data-dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"port {port}" in line
    assert "name another one" in line
    assert list(tmp_path.iterdir()) == []


def test_run_folder_is_short_however_deep_the_temporary_folder_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with run._run_dir() as folder:
        assert len(os.fsencode(folder)) <= run.RUN_DIR_BYTES_MAX
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
