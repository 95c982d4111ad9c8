"""Reading record files from front to back. Offsets are bytes; what lies behind the last newline is not there yet."""

from __future__ import annotations

from pathlib import Path

from serving.witness.segments import SUFFIX
from serving.witness.types import FileSize, Page, Witness, record_of

LIMIT_MAX = 5_000
_TAIL_BYTES = 4096


def sizes(folder: Path) -> list[FileSize]:
    """The record files in a folder, oldest first."""
    return [FileSize(path.name, size) for path in sorted(folder.glob(f"*{SUFFIX}")) if (size := whole_size(path)) >= 0]


def whole_size(path: Path) -> int:
    """The bytes of a file up to its last newline; -1 when it is gone."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            while end:
                start = max(0, end - _TAIL_BYTES)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    return start + newline + 1
                end = start
            return 0
    except FileNotFoundError:
        return -1


def read_page(path: Path, after: int, limit: int) -> Page:
    """Up to `limit` lines from byte `after` on. What is no record is passed over. Raises `FileNotFoundError`."""
    records: list[Witness] = []
    at = after
    with path.open("rb") as file:
        file.seek(after)
        for _ in range(limit):
            line = file.readline()
            if not line.endswith(b"\n"):
                break
            at += len(line)
            record = record_of(line)
            if record is not None:
                records.append(record)
    return Page(path.name, at, whole_size(path) > at, records)


def search(path: Path, head: bytes) -> Witness | None:
    """The last record in a file whose line begins with `head`, by reading all of it."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    start = text.rfind(head)
    while start > 0 and text[start - 1] != 0x0A:  # in the middle of a torn line
        start = text.rfind(head, 0, start)
    return record_of(text[start : text.find(b"\n", start) + 1]) if start >= 0 else None
