"""Settlements on disk while PostgreSQL is away: an append-only, fsynced, bounded file per process.

A settlement that waits for the database lives in its process's memory, and here, so that the death of the process loses
nothing. The process stores it when the database is back and empties the file. A process holds a lock on its file for as
long as it lives (flock(2): the kernel lets go of it however the process ends), so whoever gets the lock may settle what
the file holds: `replay`, at the start of a gateway and in every round of the worker. The same settlement twice books
once, so nobody has to know of anybody else. `docs/decisions/0013-settlements-on-disk.md` gives the reasons.

The file holds what the journal holds: ids, counts and prices, never a prompt or an answer.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from asyncpg import PostgresError

from billing.journal import Journal
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
    """The file of one process, made when it is first needed and locked while it is there."""

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

    def close(self) -> None:
        """This process stores nothing more: what still waits is whoever's who replays it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = _open_locked(self._path)
            _sync_folder(self._path.parent)
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(f"{self._path} took a part of a line only")
            os.fsync(self._file)
        except OSError:
            # A part of a line would spoil the next one: a full disk must not cost the settlement that comes after it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self.close()


async def replay(folder: Path, journal: Journal) -> int:
    """Settle what dead processes have left in `folder`; returns how many files were emptied. What the database refuses
    is buried in `settle_dead`. Raises `OSError` when the database is away: the files stay."""
    emptied = 0
    for path in _files(folder):
        with _taken(path) as free:
            if free:
                await _settle(await asyncio.to_thread(_read, path), journal)
                await asyncio.to_thread(path.unlink)
                emptied += 1
                _LOG.info("what %s had on disk is settled", path.name.removesuffix(SUFFIX))
    return emptied


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def _read(path: Path) -> list[Settlement]:
    return list(settlements(path))


async def _settle(found: list[Settlement], journal: Journal) -> None:
    results = await asyncio.gather(*map(journal.settlements.put, found), return_exceptions=True)
    for settlement, result in zip(found, results, strict=True):
        if isinstance(result, PostgresError):
            await journal.bury(settlement, repr(result))
        elif isinstance(result, BaseException):
            raise result


def settlements(path: Path) -> Iterator[Settlement]:
    """What a dead process left. A last line that its death has torn was never promised to anybody and is left out."""
    for line in path.read_bytes().split(b"\n"):
        if line:
            try:
                yield _DECODER.decode(line)
            except msgspec.DecodeError:
                _LOG.warning("%s has a line that is no settlement: torn by the death of its process", path)


@contextlib.contextmanager
def _taken(path: Path) -> Iterator[bool]:
    """Whether the file is nobody's; it is ours until the end then."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # another one has just finished with it
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield _is_at(descriptor, path)
    finally:
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    """The file, made where there is none, and its lock: nobody takes it for a dead process's between the two."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _sync_folder(folder: Path) -> None:
    """Make the file's name durable as well (fsync(2), NOTES)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
