"""Whatever becomes of `make`, what it runs notices. Real GNU make, with a stand-in for the supervisor."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

STAND_IN = """
import signal, sys, time
from pathlib import Path
from gateway.up.lifeline import ParentWatch

def told(text):
    Path("told").write_text(text)
    sys.exit(0)

signal.signal(signal.SIGTERM, lambda *_: told("SIGTERM"))
signal.signal(signal.SIGINT, lambda *_: told("SIGINT"))
watch = ParentWatch(int(sys.argv[1]))
Path("up").write_text("")
end = time.monotonic() + 20
while time.monotonic() < end:
    reason = watch.reason()
    if reason:
        told(reason)
    time.sleep(0.05)
told("nothing")
"""


def _ignore_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _wait_for(path: Path) -> str:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.02)
    time.sleep(0.1)
    return path.read_text()


@pytest.mark.parametrize(
    ("ignored", "send", "told"),
    [
        pytest.param(False, lambda make: make.send_signal(signal.SIGINT), "make was interrupted", id="SIGINT to make"),
        pytest.param(True, lambda make: make.send_signal(signal.SIGINT), "make was interrupted", id="ignored SIGINT"),
        pytest.param(False, lambda make: make.terminate(), "SIGTERM", id="SIGTERM to make, which hands it on"),
        pytest.param(True, lambda make: make.terminate(), "SIGTERM", id="SIGTERM where SIGINT is ignored"),
        pytest.param(False, lambda make: make.kill(), "make is gone", id="SIGKILL of make"),
        pytest.param(True, lambda make: make.kill(), "make is gone", id="SIGKILL where SIGINT is ignored"),
    ],
)
def test_end_of_make_is_noticed(
    tmp_path: Path, ignored: bool, send: Callable[[subprocess.Popen[bytes]], None], told: str
) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "Makefile").write_text(f"up:\n\t@PYTHONPATH={ROOT} exec {sys.executable} stand_in.py $$PPID\n")
    with subprocess.Popen(
        ["make", "up"], cwd=tmp_path, start_new_session=True, preexec_fn=_ignore_sigint if ignored else None
    ) as make:
        _wait_for(tmp_path / "up")
        send(make)
        assert _wait_for(tmp_path / "told") == told
        make.wait(10)


def test_make_that_ends_its_recipe_is_not_disturbed_by_the_watch(tmp_path: Path) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN.replace("+ 20", "+ 0.3"))
    recipe = f"up:\n\t@PYTHONPATH={ROOT} exec {sys.executable} stand_in.py $$PPID\n\t@echo next line\n"
    (tmp_path / "Makefile").write_text(recipe)
    done = subprocess.run(
        ["make", "up"], cwd=tmp_path, preexec_fn=_ignore_sigint, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout == "next line\n"
    assert (tmp_path / "told").read_text() == "nothing"
