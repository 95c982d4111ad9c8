"""Makes the Python environments from their hashed locks: `.venv` (gateway) and `.venv-serving` (engine).

Standard library only: `install.py` runs this on a bare CPython. A complete environment carries a stamp with the hash of
what it was made from; without one it is half finished and made again. One process at a time works on a clone.

Exit codes: 0 ready; 2 could not be made (one line on stderr says what and what to do); 130 stopped by a signal.
"""

import argparse
import errno
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gateway.up.failure import UpError
from gateway.up.lifeline import ParentWatch, die_with_parent

_GB = 10**9
_HEARTBEAT_S = 15.0
_POLL_S = 0.25
_STOP_S_MAX = 5.0

# What pip prints, and what it means for the reader. The first match wins: a network failure also ends in
# "No matching distribution found", so the network comes first.
_DIAGNOSES = (
    (("No space left on device",), "the disk is full", "free some space and run the same command again"),
    (
        (
            "NewConnectionError",
            "ConnectTimeoutError",
            "ReadTimeoutError",
            "Temporary failure in name resolution",
            "Failed to establish a new connection",
            "Connection broken",
            "ProxyError",
            "SSLError",
        ),
        "the package index cannot be reached",
        "check the network (or pip's index, proxy and certificate settings) and run the same command again",
    ),
    (
        ("DO NOT MATCH THE HASHES", "HashMismatch"),
        "a downloaded package is not the one in the lock",
        "do not use it; clear pip's cache (pip cache purge), try again, and report it if it stays",
    ),
    (
        ("No matching distribution found",),
        "the package index cannot be reached or lacks a locked version for this machine",
        "check the network and run the same command again; the locks were made for Linux x86-64 with glibc",
    ),
    (("Permission denied",), "a folder cannot be written", "check who owns this clone"),
)


class _StoppedError(Exception):
    """SIGINT, SIGTERM or the end of make asked us to stop."""


@dataclass(frozen=True, slots=True)
class Part:
    """One set of packages that goes into one environment, with the stamp that says it is complete."""

    title: str
    folder: Path
    locks: tuple[Path, ...]
    editable: Path | None
    needs_bytes: int
    stamp_name: str
    index_url: str = ""

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """The file that exists only when this part is complete."""
        return self.folder / self.stamp_name

    def fingerprint(self) -> str:
        """SHA-256 of all that decides what is installed: locks, what the project file says of the package, interpreter,
        and where the clone lies (an environment does not survive being moved)."""
        digest = hashlib.sha256(f"{sys.version}\0{self.folder}\0".encode())
        for lock in self.locks:
            digest.update(lock.read_bytes() + b"\0")
        if self.editable is not None:
            project = tomllib.loads((self.editable / "pyproject.toml").read_text(encoding="utf-8"))
            tools = project.get("tool", {}).get("setuptools")  # the settings of linters install nothing
            digest.update(repr((project.get("project"), project.get("build-system"), tools)).encode())
        return digest.hexdigest()

    def is_complete(self) -> bool:
        """True when nothing is left to do; takes milliseconds."""
        try:
            return self.stamp.read_text(encoding="ascii") == self.fingerprint() and self.python.exists()
        except FileNotFoundError:
            return False


def plan(root: Path, *, serving: bool, dev: bool, torch_index_url: str) -> list[Part]:
    """The parts that the options ask for, in the order in which they are made."""
    gateway = Part(".venv", root / ".venv", (root / "requirements.lock",), root, _GB, ".sekisho-complete")
    parts = [gateway]
    if dev:
        lock = (root / "requirements-dev.lock",)
        parts.append(Part(".venv (development tools)", gateway.folder, lock, None, _GB, ".sekisho-dev-complete"))
    if serving:
        folder = root / "serving"
        # torch has a lock of its own that goes first, because its CPU build may come from another index
        locks = sorted(folder.glob("requirements*.lock"), key=lambda lock: ("torch" not in lock.name, lock.name))
        parts.append(
            Part(
                ".venv-serving",
                root / ".venv-serving",
                tuple(locks) or (folder / "requirements.lock",),
                folder,
                8 * _GB,
                ".sekisho-complete",
                torch_index_url,
            )
        )
    return parts


class Installer:
    """Makes parts, one after the other, with plain progress lines and pip's words in a log."""

    def __init__(self, logs: Path, parent: int | None) -> None:
        self._logs = logs
        self._parent = ParentWatch(parent) if parent is not None else None
        self._began = time.monotonic()
        self._stop_signal = 0

    def run(self, root: Path, parts: Sequence[Part]) -> None:
        """Raises `UpError` when a part cannot be made, `_StoppedError` when asked to stop."""
        for number in (signal.SIGINT, signal.SIGTERM):  # also where SIGINT was inherited as ignored
            signal.signal(number, self._on_signal)
        with ExitStack() as stack:
            self._take_turn(root, stack)
            self._make_missing(parts)

    def _take_turn(self, root: Path, stack: ExitStack) -> None:
        """Two makes in one clone wait for each other instead of writing into the same environment."""
        clone = os.open(root, os.O_RDONLY)
        stack.callback(os.close, clone)
        told = False
        while True:
            try:
                fcntl.flock(clone, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    self._say("another installation is running in this clone; waiting for it")
                told = True
                self._stop_if_asked(None)
                time.sleep(_POLL_S)
            else:
                return

    def _make_missing(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if not part.is_complete():
                self._make(part)
                self._say(f"{part.title}: ready")

    def _on_signal(self, number: int, _frame: object) -> None:
        self._stop_signal = number

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:7.1f} s] {text}", flush=True)

    def _make(self, part: Part) -> None:
        missing = [lock.name for lock in part.locks if not lock.exists()]
        if missing:
            raise UpError(f"{part.title}: {missing[0]} is missing", "this clone is incomplete, clone it again")
        _check_disk(part)
        if part.editable is not None:
            self._fresh_environment(part)
        part.stamp.unlink(missing_ok=True)
        for lock in part.locks:
            index = ["--extra-index-url", part.index_url] if part.index_url and "torch" in lock.name else []
            what = f"installing {_count(lock)} from {lock.name}"
            # A lock is complete; the serving ones leave out, on purpose, what their packages ask for and do not need.
            self._pip(part, ["--require-hashes", "--no-deps", *index, "-r", str(lock)], what)
        if part.editable is not None:
            self._pip(part, ["--no-deps", "--no-build-isolation", "-e", str(part.editable)], "installing this clone")
        part.stamp.write_text(part.fingerprint(), encoding="ascii")

    def _fresh_environment(self, part: Part) -> None:
        if part.folder.exists():
            changed = part.stamp.exists()
            why = "its lock changed or the clone moved" if changed else "an earlier installation was cut short"
            self._say(f"{part.title}: {why}; making it again")
            part.stamp.unlink(missing_ok=True)
            shutil.rmtree(part.folder)
        self._say(f"{part.title}: making the environment with Python {sys.version.split()[0]}")
        self._command(part, [sys.executable, "-m", "venv", str(part.folder)], "making the environment")

    def _pip(self, part: Part, arguments: list[str], what: str) -> None:
        self._say(f"{part.title}: {what}")
        self._command(part, [str(part.python), "-m", "pip", "install", "--no-input", *arguments], what)

    def _command(self, part: Part, argv: list[str], what: str) -> None:
        log_path = self._logs / f"install{part.folder.name}.log"
        with log_path.open("ab") as log:
            log.write(f"\n$ {' '.join(argv)}\n".encode())
            log.flush()
            start = log.tell()
            code = self._wait(part, argv, what, log)
        if code != 0:
            raise _diagnose(part, what, code, log_path, start)

    def _wait(self, part: Part, argv: list[str], what: str, log: IO[bytes]) -> int:
        """Runs one command to its end, with a sign of life now and then; ends it when we are asked to stop."""
        environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGKILL),
        ) as process:
            next_sign = time.monotonic() + _HEARTBEAT_S
            while True:
                try:
                    return process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    self._stop_if_asked(process)
                if time.monotonic() >= next_sign:
                    next_sign += _HEARTBEAT_S
                    self._say(f"{part.title}: still {what}")

    def _stop_if_asked(self, process: subprocess.Popen[bytes] | None) -> None:
        reason = signal.Signals(self._stop_signal).name if self._stop_signal else None
        if reason is None and self._parent is not None:
            reason = self._parent.reason()
        if reason is None:
            return
        if process is not None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        raise _StoppedError(reason)


def _count(lock: Path) -> str:
    packages = sum("==" in line and not line.startswith((" ", "#")) for line in lock.read_text("utf-8").splitlines())
    return f"{packages} packages"


def _check_disk(part: Part) -> None:
    free = shutil.disk_usage(part.folder.parent).free
    if free < part.needs_bytes:
        raise UpError(
            f"{part.title} needs {part.needs_bytes / _GB:.0f} GB of disk and {free / _GB:.1f} GB are free",
            f"free some space below {part.folder.parent}",
        )


def _diagnose(part: Part, what: str, code: int, log_path: Path, start: int) -> UpError:
    with log_path.open("rb") as log:
        log.seek(start)
        output = log.read().decode("utf-8", "replace")
    last = "\n".join(deque((line for line in output.splitlines() if line.strip()), maxlen=12))
    for marks, meaning, cure in _DIAGNOSES:
        if any(mark in output for mark in marks):
            return UpError(f"{part.title}: {meaning}", f"{cure} (log: {log_path})", detail=last)
    return UpError(f"{part.title}: {what} ended with exit code {code}", f"see {log_path}", detail=last)


def _check_venv() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        version = ".".join(map(str, sys.version_info[:2]))
        raise UpError(
            f"this Python {version} has no venv or ensurepip",
            f"install them (Debian, Ubuntu: apt-get install python{version}-venv) and run the same command again",
        )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="install.py", description="Make Sekisho's environments from its locks.")
    parser.add_argument("--serving", action="store_true", help="also the engine's environment, .venv-serving")
    parser.add_argument("--dev", action="store_true", help="also the development tools")
    parser.add_argument("--torch-index-url", default="", help="index of the CPU build of torch")
    parser.add_argument("--data-dir", default="", help="where logs/ lies (default: ./.sekisho)")
    parser.add_argument("--parent", type=int, help="pid of the make to stop with")
    return parser.parse_args(argv)


def main(root: Path, argv: Sequence[str]) -> int:
    """`python install.py [--serving] [--dev]`; returns the exit code."""
    options = _parse(argv)
    parts = plan(root, serving=options.serving, dev=options.dev, torch_index_url=options.torch_index_url)
    try:
        if all(part.is_complete() for part in parts):
            return 0
        _check_venv()
        logs = Path(options.data_dir or root / ".sekisho") / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        Installer(logs, options.parent).run(root, parts)
    except _StoppedError as stopped:
        print(f"install.py: stopped ({stopped}); the next start makes the rest", file=sys.stderr)
        return 128 + signal.SIGINT
    except UpError as error:
        print("\n".join(filter(None, (error.detail, f"install.py: {error}"))), file=sys.stderr)
        return 2
    except OSError as error:
        cure = "free some space" if error.errno == errno.ENOSPC else "check the permissions of this clone"
        print(f"install.py: {error.strerror} ({error.filename}); {cure}", file=sys.stderr)
        return 2
    return 0
