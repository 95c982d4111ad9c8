"""Settlements on disk while PostgreSQL is away: an append-only, fsynced, bounded file per process.

A settlement that waits for the database lives in its process's memory, and here, so that the death of the process loses
nothing. The process stores it when the database is back and empties the file; what a dead process left is read by
`leftovers` and stored by the worker. The same settlement twice books once, so neither has to know of the other.

The file holds what the journal holds: ids, counts and prices, never a prompt or an answer.
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from billing.types import Settlement

_LOG = logging.getLogger(__name__)

ROWS_MAX = 100_000
BYTES_MAX = 64 * 1024 * 1024
SUFFIX = ".settlements.jsonl"

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Settlement)


class SpoolFull(Exception):
    """As many settlements wait for the database as are allowed to."""


class Spool:
    """The file of one process, made when it is first needed."""

    def __init__(self, folder: Path, instance_id: str, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._path = folder / f"{instance_id}{SUFFIX}"
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._waiting: set[str] = set()
        self._bytes = 0
        self._file: int | None = None
        self._lock = asyncio.Lock()

    @property
    def full(self) -> bool:
        """Whether nothing more may wait: then no new work must be begun."""
        return len(self._waiting) >= self._rows_max or self._bytes >= self._bytes_max

    async def keep(self, settlement: Settlement) -> None:
        """Write `settlement` to disk, unless it is there: durable on return. Raises `SpoolFull` or `OSError`."""
        if settlement.request_id in self._waiting:
            return
        line = _ENCODER.encode(settlement) + b"\n"
        async with self._lock:
            if self.full:
                raise SpoolFull
            await asyncio.to_thread(self._append, line)
            self._waiting.add(settlement.request_id)
            self._bytes += len(line)

    async def stored(self, request_id: str) -> None:
        """`request_id` is in the journal. When nothing waits any more the file is removed."""
        if request_id not in self._waiting:
            return
        async with self._lock:
            self._waiting.discard(request_id)
            if not self._waiting:
                self._bytes = 0
                await asyncio.to_thread(self._remove)

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            _sync_folder(self._path.parent)
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self._path} took a part of a line only")
        os.fsync(self._file)

    def _remove(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._path.unlink(missing_ok=True)


def leftovers(folder: Path) -> dict[str, Path]:
    """The files in `folder`, by the id of the process that wrote them."""
    return {path.name.removesuffix(SUFFIX): path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def settlements(path: Path) -> Iterator[Settlement]:
    """What a dead process left. A last line that its death has torn was never promised to anybody and is left out."""
    for line in path.read_bytes().split(b"\n"):
        if line:
            try:
                yield _DECODER.decode(line)
            except msgspec.DecodeError:
                _LOG.warning("%s has a line that is no settlement: torn by the death of its process", path)


def _sync_folder(folder: Path) -> None:
    """Make the file's name durable as well (fsync(2), NOTES)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
