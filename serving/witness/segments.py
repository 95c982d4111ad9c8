"""The record files of one engine process: bounded in size, followed by a new one, kept for a stated time."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from serving.witness.appender import Appender

BYTES_MAX = 64 << 20
KEEP_DAYS = 190
"""Longer than the 183 days for which logs must be kept, and than any month that is still open."""
SUFFIX = ".jsonl"
_DAY_S = 86_400


class Segments:
    """Appends lines to `folder`/<start>-<pid>-<random>-<number>.jsonl, so that names in order are files in order.

    No process ever writes into the file of another one. Files that nobody has written to for `keep_days` are removed
    whenever a new one is begun.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bytes_max: int = BYTES_MAX,
        keep_days: float = KEEP_DAYS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._bytes_max, self._keep_s, self._clock = folder, bytes_max, keep_days * _DAY_S, clock
        began = datetime.fromtimestamp(clock(), UTC).strftime("%Y%m%dT%H%M%SZ")
        # containers that share a folder have the same pids
        self._name = f"{began}-{os.getpid()}-{secrets.token_hex(3)}"
        self._number = 0
        self._current = self._next()

    def append(self, line: bytes) -> None:
        """Appends a line; see `Appender.append` for what is then sure."""
        if self._current.size >= self._bytes_max:
            self._current.close(wait=False)
            self._current = self._next()
        self._current.append(line)

    def close(self) -> None:
        """Brings everything to the disk."""
        self._current.close()

    def _next(self) -> Appender:
        self._number += 1
        appender = Appender(self._folder / f"{self._name}-{self._number:04d}{SUFFIX}")
        _remove_old(self._folder, self._clock() - self._keep_s)
        return appender


def _remove_old(folder: Path, before: float) -> None:
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            if path.stat().st_mtime < before:
                path.unlink()
        except FileNotFoundError:  # another engine process was faster
            continue
