"""Record files: what is on the disk when, torn lines, full disks, size and age, pages."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from serving.witness.appender import Appender
from serving.witness.pages import read_page, search, sizes
from serving.witness.segments import Segments
from serving.witness.types import Witness, head_of, line_of


def a_record(attempt_id: str, tokens: int = 1) -> Witness:
    return Witness(attempt_id, "m", "finished", 7, 0, tokens, 0, "stop", 1.0, 2.0)


def test_a_line_is_in_the_file_when_append_returns_and_on_the_disk_when_close_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def fdatasync(file: int) -> None:
        size = os.fstat(file).st_size
        real(file)
        synced.append(size)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    path = tmp_path / "a" / "x.jsonl"
    appender = Appender(path)
    for number in range(50):
        appender.append(b"%d\n" % number)
        assert path.read_bytes().endswith(b"%d\n" % number)
        while number == 0 and not synced:  # the disk has answered, and the file goes on
            time.sleep(0.001)
    appender.close()
    assert synced[-1] == path.stat().st_size == appender.size
    assert path.stat().st_mode & 0o777 == 0o600


def test_many_lines_go_to_the_disk_together_and_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a disk that takes until we allow it,
    allowed, calls = threading.Event(), []

    def fdatasync(file: int) -> None:
        calls.append(os.fstat(file).st_size)
        assert allowed.wait(20)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    appender = Appender(tmp_path / "x.jsonl")
    # when a hundred lines are appended, they are all in the file although the disk has answered for none,
    for _ in range(100):
        appender.append(b"line\n")
    assert (tmp_path / "x.jsonl").stat().st_size == 500
    # and two or three calls bring them to the disk.
    allowed.set()
    appender.close()
    assert calls[-1] == 500
    assert len(calls) <= 3


def test_a_disk_that_takes_part_of_a_line_or_nothing_tears_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appender = Appender(tmp_path / "x.jsonl")
    real, left = os.write, [3, 0, 10_000]

    def write(file: int, data: bytes) -> int:
        room = left.pop(0) if left else 10_000
        if room == 0:
            raise OSError(errno.ENOSPC, "full")
        return real(file, data[:room])

    monkeypatch.setattr(os, "write", write)
    for name in ("first", "second", "third"):
        appender.append(name.encode() + b"\n")
    appender.close()
    assert (tmp_path / "x.jsonl").read_text() == "first\nsecond\nthird\n"
    assert appender.lost == 0


def test_a_line_torn_by_a_death_is_ended_before_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(line_of(a_record("r-1")) + b'{"attempt_id":"r-2","mod')
    assert [item.size for item in sizes(tmp_path)] == [len(line_of(a_record("r-1")))]
    torn = read_page(path, 0, 10)
    assert (torn.next, torn.more, len(torn.records)) == (len(line_of(a_record("r-1"))), False, 1)
    appender = Appender(path)
    appender.append(line_of(a_record("r-3")))
    appender.close()
    page = read_page(path, 0, 10)
    assert [record.attempt_id for record in page.records] == ["r-1", "r-3"]
    assert (page.next, page.more) == (path.stat().st_size, False)
    assert search(path, head_of("r-2")) is None
    assert search(path, head_of("r-3")) == a_record("r-3")


def test_files_are_bounded_in_size_and_read_in_order(tmp_path: Path) -> None:
    segments = Segments(tmp_path, bytes_max=600)
    for number in range(10):
        segments.append(line_of(a_record(f"r-{number}")))
    segments.close()
    files = sizes(tmp_path)
    assert len(files) > 3
    assert all(item.size <= 600 + 250 for item in files)
    found = [record.attempt_id for item in files for record in read_page(tmp_path / item.file, 0, 100).records]
    assert found == [f"r-{number}" for number in range(10)]


def test_files_that_nobody_wrote_to_for_long_go_when_a_new_one_begins(tmp_path: Path) -> None:
    day = 86_400.0
    for name, age_days in (("20250101T000000Z-1-a-0001.jsonl", 191), ("20260101T000000Z-1-a-0001.jsonl", 189)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1e9 - age_days * day, 1e9 - age_days * day))
    (tmp_path / "other.txt").write_text("")
    os.utime(tmp_path / "other.txt", (0, 0))
    Segments(tmp_path, clock=lambda: 1e9).close()
    left = {path.name for path in tmp_path.iterdir()}
    assert "20250101T000000Z-1-a-0001.jsonl" not in left
    assert {"20260101T000000Z-1-a-0001.jsonl", "other.txt"} <= left
    assert len(left) == 3


def test_two_processes_of_one_second_and_one_pid_have_files_of_their_own(tmp_path: Path) -> None:
    for segments in [Segments(tmp_path, clock=lambda: 1e9) for _ in range(3)]:
        segments.close()
    assert len(list(tmp_path.iterdir())) == 3
