"""Children: started, watched, restarted, stopped; none survives."""

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.up import supervisor as supervisor_module
from gateway.up.failure import UpError
from gateway.up.leftovers import INSTANCE_VARIABLE, Record, started_ticks
from gateway.up.processes import Child, until_ready
from gateway.up.steps import PlainSteps
from gateway.up.supervisor import Supervisor
from tests.gateway.up.conftest import MakeCommand

SLEEP = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(60)"


@pytest.fixture
def told() -> io.StringIO:
    """What is told to the user."""
    return io.StringIO()


@pytest_asyncio.fixture
async def supervisor(tmp_path: Path, told: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    monkeypatch.setattr(supervisor_module, "_DELAYS_S", (0.01,) * supervisor_module.RESTARTS_MAX)
    steps = PlainSteps(told)
    record = Record(tmp_path / "processes.json")
    running = Supervisor(steps, record, (("gateway",), ("worker", "engine"), ("store",)))
    yield running
    await running.stop()


async def _until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


async def _says(child: Child, text: str) -> None:
    await _until(lambda: text in child.last_lines())


async def _always() -> bool:
    return True


def _gone(pid: int) -> bool:
    return started_ticks(pid) is None


async def test_child_has_its_own_session_and_its_output_in_the_log(python_command: MakeCommand) -> None:
    child = await Child.start(python_command("talker", "import os; print(os.getsid(0), os.getpid()); print('bye')"))
    assert await child.wait() == 0
    session, pid = child.last_lines().splitlines()[0].split()
    assert session == pid == str(child.pid)
    assert child.last_lines(1) == "bye"


async def test_deaf_child_is_killed_after_its_time(python_command: MakeCommand) -> None:
    child = await Child.start(python_command("deaf", DEAF, stop_s_max=0.2))
    await _says(child, "up")
    began = time.monotonic()
    await child.stop()
    assert await child.wait() == -signal.SIGKILL
    assert time.monotonic() - began < 3


async def test_descendants_end_with_their_leader(python_command: MakeCommand) -> None:
    text = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {DEAF!r}])\n"
        "print(p.pid); time.sleep(60)"
    )
    child = await Child.start(python_command("leader", text))
    await _says(child, "up")
    grandchild = int(child.last_lines().splitlines()[0])
    await child.stop()
    await _until(lambda: _gone(grandchild))


async def test_program_that_is_missing_is_one_line(python_command: MakeCommand, tmp_path: Path) -> None:
    command = python_command("engine", "")
    missing = type(command)("engine", (str(tmp_path / "missing"),), command.log, command.env)
    with pytest.raises(UpError, match="engine cannot be started"):
        await Child.start(missing)


async def test_child_that_dies_before_it_is_ready_is_told_with_its_last_words(python_command: MakeCommand) -> None:
    async def never() -> bool:
        return False

    child = await Child.start(python_command("gateway", "print('no such table'); raise SystemExit(3)"))
    with pytest.raises(UpError, match="gateway ended with exit code 3") as caught:
        await until_ready(child, never, within_s=10)
    assert caught.value.detail == "no such table"


async def test_child_that_never_gets_ready_is_given_up(python_command: MakeCommand) -> None:
    async def never() -> bool:
        return False

    child = await Child.start(python_command("gateway", SLEEP))
    with pytest.raises(UpError, match="was not ready after 0 s"):
        await until_ready(child, never, within_s=0.1)
    await child.stop()


async def test_kept_child_that_dies_comes_back_under_a_new_pid(
    supervisor: Supervisor, python_command: MakeCommand, told: io.StringIO
) -> None:
    child = await supervisor.start(python_command("gateway", SLEEP))
    supervisor.keep(child, _always, within_s=5)
    supervisor.changed.clear()
    os.kill(child.pid, signal.SIGKILL)
    await asyncio.wait_for(supervisor.changed.wait(), 10)
    assert supervisor.pids["gateway"] != child.pid
    await _until(lambda: "is back" in told.getvalue())
    assert "gateway was ended by SIGKILL; starting it again" in told.getvalue()


async def test_child_that_keeps_dying_ends_the_stack(supervisor: Supervisor, python_command: MakeCommand) -> None:
    child = await supervisor.start(python_command("worker", "print('broken'); raise SystemExit(1)"))
    supervisor.keep(child, _always, within_s=5)
    error = await asyncio.wait_for(supervisor.failed, 20)
    assert "worker ended with exit code 1" in str(error)
    assert error.detail.splitlines() == ["broken"] * (supervisor_module.RESTARTS_MAX + 1)


async def test_death_of_a_store_ends_the_stack_at_once(supervisor: Supervisor, python_command: MakeCommand) -> None:
    child = await supervisor.start(python_command("store", f"print('last words'); {SLEEP}"))
    supervisor.mind(child)
    await _says(child, "last words")
    os.kill(child.pid, signal.SIGKILL)
    error = await asyncio.wait_for(supervisor.failed, 10)
    assert "store was ended by SIGKILL" in str(error)
    assert error.detail == "last words"


async def test_stop_goes_in_order_and_leaves_no_record(
    supervisor: Supervisor, python_command: MakeCommand, tmp_path: Path
) -> None:
    order = tmp_path / "order"
    text = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        f"    open({str(order)!r}, 'a').write(sys.argv[0] + '{{name}}\\n'); sys.exit(0)\n"
        "signal.signal(15, end); print('up'); time.sleep(60)"
    )
    children = [
        await supervisor.start(python_command(name, text.replace("{name}", name)))
        for name in ("store", "engine", "worker", "gateway")
    ]
    for child in children:
        await _says(child, "up")
    await supervisor.stop()
    names = [line.removeprefix("-c") for line in order.read_text().split()]
    assert names[0] == "gateway"
    assert set(names[1:3]) == {"worker", "engine"}
    assert names[3] == "store"
    assert not (tmp_path / "processes.json").exists()
    assert supervisor.pids == {}


async def test_stop_reaches_a_descendant_that_left_the_session(
    tmp_path: Path, told: io.StringIO, python_command: MakeCommand
) -> None:
    record = Record(tmp_path / "processes.json")
    supervisor = Supervisor(PlainSteps(told), record, ())
    text = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)\n"
        "print(p.pid); time.sleep(60)"
    )
    command = python_command("engine", text)
    marked = {**command.env, INSTANCE_VARIABLE: record.instance}
    child = await supervisor.start(type(command)("engine", command.argv, command.log, marked))
    await _until(lambda: child.last_lines() != "")
    stray = int(child.last_lines())
    assert not _gone(stray)
    await supervisor.stop()
    await _until(lambda: _gone(stray))


def test_child_dies_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    text = f"""
import asyncio, os, sys
from pathlib import Path
from gateway.up.processes import Child, Command
async def main():
    command = Command("child", (sys.executable, "-c", {SLEEP!r}), Path({str(tmp_path / "log")!r}), dict(os.environ))
    child = await Child.start(command)
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        assert not _gone(child)
        supervisor.kill()
    deadline = time.monotonic() + 10
    while not _gone(child) and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
    assert _gone(child)
