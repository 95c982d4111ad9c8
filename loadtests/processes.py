"""Child processes of a measurement: started, waited for, ended by their pid; and what /proc says about them."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from gateway.up.lifeline import die_with_parent

START_S_MAX = 60.0
STOP_S_MAX = 20.0
_POLL_S = 0.02
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Unmeasurable(Exception):
    """The measurement cannot be made; the text says why and what to do."""


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    argv: Sequence[str],
    *,
    ready: Callable[[], bool],
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is up when `ready()` says so and is ended on exit. Raises `Unmeasurable` with the log's end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=cwd,
            env=None if env is None else dict(env), start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )  # fmt: skip
    try:
        _until(process, ready, argv, log)
        yield process
    finally:
        stop(process, stop_signal)


def _until(process: subprocess.Popen[bytes], ready: Callable[[], bool], argv: Sequence[str], log: Path) -> None:
    deadline = time.monotonic() + START_S_MAX
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
            state = "did not start in time" if process.poll() is None else f"ended with {process.returncode}"
            raise Unmeasurable(f"{' '.join(argv[:6])} {state}:\n{last}")
        time.sleep(_POLL_S)


def stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals = signal.SIGTERM) -> None:
    """End it: asked first, killed after 20 s."""
    if process.poll() is None:
        process.send_signal(stop_signal)
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    """Whether GET `url` is answered with 200 right now."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=2)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def listens(port: int) -> bool:
    """Whether somebody accepts connections on this port of the loopback address."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_us(pid: int) -> float:
    """CPU time of all threads of `pid` so far, user and system, in microseconds; the kernel counts in ticks of 10 ms
    (proc(5), /proc/<pid>/stat fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / _TICKS_PER_S


def rss_peak_mb(pid: int) -> float:
    """The largest resident set `pid` ever had, in MB of 10^6 bytes (proc(5), VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def environment_of(pid: int) -> dict[str, str]:
    """The environment `pid` was started with."""
    raw = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(os.fsdecode(entry).split("=", 1) for entry in raw if b"=" in entry)


def others_busy_share(seconds: float = 1.0) -> float:
    """Share of all cores that is busy right now, before the measurement adds its own load (0 to 1)."""
    first, second = _jiffies(), None
    time.sleep(seconds)
    second = _jiffies()
    total = sum(second) - sum(first)
    idle = (second[3] + second[4]) - (first[3] + first[4])
    return 1 - idle / total if total else 0.0


def _jiffies() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
