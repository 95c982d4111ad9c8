"""Ends a process and everything that came out of it, whatever happened in between. Linux only."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_SHARED_MEMORY = Path("/dev", "shm")  # shm_overview(7)
_MAPPED = re.compile(r"^\S+ \S+ \S+ \S+ (\d+) +/dev/shm/", re.MULTILINE)  # proc_pid_maps(5): the fifth is the inode


def adopt_orphans() -> None:
    """Descendants that lose their parent become our children instead of init's, so that none can get out of sight."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Asks the kernel for SIGTERM when the parent dies; sends it at once when the parent is gone already."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def descendants() -> list[psutil.Process]:
    """All living processes below this one; the dead ones that wait to be collected are collected."""
    _collect()
    alive = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive


def end_descendants(ask: Callable[[], None], within_s: float) -> list[psutil.Process]:
    """Asks (`ask` may take its time), then kills everything below this process, also what is started meanwhile.

    Returns what is left after `within_s` seconds of killing. vLLM's shared memory, which a killed process leaves behind
    for good, is removed too.
    """
    segments = _shared_memory(descendants())
    ask()
    segments |= _shared_memory(descendants())
    left = _kill_descendants(within_s)
    _remove_shared_memory(segments)
    return left


def _kill_descendants(within_s: float) -> list[psutil.Process]:
    deadline = time.monotonic() + within_s
    while left := descendants():
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if time.monotonic() > deadline:
            return left
        psutil.wait_procs(left, timeout=0.2)
    return []


def _shared_memory(owners: list[psutil.Process]) -> set[int]:
    """The inodes of /dev/shm that the owners have mapped. Not the names: glibc links a semaphore's file to its name
    after it was mapped under another one."""
    inodes = set()
    for process in owners:
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has just ended
            continue
        inodes |= {int(inode) for inode in _MAPPED.findall(maps)}
    return inodes


def _remove_shared_memory(inodes: set[int]) -> None:
    for file in _SHARED_MEMORY.iterdir():
        try:
            if file.stat().st_ino in inodes:
                file.unlink()
        except FileNotFoundError:
            continue


def _collect() -> None:
    """Takes leave of adopted children that have ended; `subprocess` keeps its own ones' exit codes by itself."""
    for process in psutil.Process().children():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                process.wait(timeout=0)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            continue
