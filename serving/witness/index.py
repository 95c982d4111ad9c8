"""Finds an attempt among the record files of a folder, while engines write to them.

The place of each of the newest records is kept in memory. An older one is searched for in the files, newest first,
unless its id says that it cannot be there: ids made by the gateway begin with the time (UUIDv7), and an attempt ends
after it began. So an attempt that runs, which is asked for most, costs no search.
"""

from __future__ import annotations

from pathlib import Path

from serving.witness.pages import search, whole_size
from serving.witness.segments import SUFFIX
from serving.witness.types import Witness, head_of, record_of

KEPT_MAX = 131_072
LINE_BYTES_MIN = 200
_SKEW_S = 5.0  # the gateway's clock made the id, the engine's clock the record


class Index:
    """The records of `folder`. Call `refresh` to follow. Not for several threads, `find_old` excepted."""

    def __init__(self, folder: Path, kept_max: int = KEPT_MAX) -> None:
        self._folder = folder
        self._half = max(1, kept_max // 2)
        # Two generations: when the new one is full the old one goes, so nothing has to remember the age of each.
        self._new: dict[str, tuple[str, int]] = {}
        self._old: dict[str, tuple[str, int]] = {}
        self._read: dict[str, int] = {}
        # Ends in unix seconds: the latest that was read, the latest of the old generation, the latest forgotten.
        self._latest = self._latest_old = self._forgotten_until = 0.0
        self._pass_over_old_files()

    def refresh(self) -> None:
        """Reads what has been written since the last time."""
        names = sorted(path.name for path in self._folder.glob(f"*{SUFFIX}"))
        for name in names:
            self._follow(name)
        for name in self._read.keys() - set(names):
            del self._read[name]

    def find(self, attempt_id: str) -> Witness | None:
        """The record of an attempt, if it is among those whose place is known."""
        place = self._new.get(attempt_id) or self._old.get(attempt_id)
        if place is None:
            return None
        name, offset = place
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(offset)
                return record_of(file.readline())
        except FileNotFoundError:
            return None

    def may_be_older(self, attempt_id: str) -> bool:
        """Whether its record may be one of those that were forgotten."""
        if not self._forgotten_until:
            return False
        began = _began(attempt_id)
        return began is None or began - _SKEW_S <= self._forgotten_until

    def find_old(self, attempt_id: str) -> Witness | None:
        """Searches all files, newest first."""
        head = head_of(attempt_id)
        for path in sorted(self._folder.glob(f"*{SUFFIX}"), reverse=True):
            found = search(path, head)
            if found is not None:
                return found
        return None

    def _pass_over_old_files(self) -> None:
        """At the start only as much is read as there is room for."""
        room = 2 * self._half * LINE_BYTES_MIN
        for path in sorted(self._folder.glob(f"*{SUFFIX}"), reverse=True):
            found = path.stat()
            if room <= 0:
                self._read[path.name] = whole_size(path)
                self._forgotten_until = max(self._forgotten_until, found.st_mtime)
            room -= found.st_size

    def _follow(self, name: str) -> None:
        path = self._folder / name
        at = self._read.get(name, 0)
        try:
            if path.stat().st_size <= at:
                return
            with path.open("rb") as file:
                file.seek(at)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._note(line, name, at)
                    at += len(line)
        except FileNotFoundError:  # too old, and removed just now
            return
        self._read[name] = at

    def _note(self, line: bytes, name: str, at: int) -> None:
        record = record_of(line)
        if record is None:
            return
        if len(self._new) >= self._half:
            if self._old:
                self._forgotten_until = max(self._forgotten_until, self._latest_old)
            self._old, self._new = self._new, {}
            self._latest_old = self._latest
        self._latest = max(self._latest, record.ended_at or 0.0)
        self._new[record.attempt_id] = (name, at)


def _began(attempt_id: str) -> float | None:
    """The time in an id that begins with a UUIDv7 (RFC 9562, 5.7), in unix seconds."""
    try:
        return int(attempt_id[:8] + attempt_id[9:13], 16) / 1000 if attempt_id[14] == "7" else None
    except (IndexError, ValueError):
        return None
