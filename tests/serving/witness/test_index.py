"""Finding attempts among many, in little memory, while files grow, are followed by others, and go."""

import random
from pathlib import Path
from uuid import UUID

from serving.witness.index import Index
from serving.witness.types import Witness, line_of


def a_record(attempt_id: str, ended_at: float = 2.0, tokens: int = 1) -> Witness:
    return Witness(attempt_id, "m", "finished", 7, 0, tokens, 0, "stop", 1.0, ended_at)


def append(path: Path, *records: Witness) -> None:
    with path.open("ab") as file:
        file.writelines(line_of(record) for record in records)


def uuid7_at(seconds: float) -> str:
    """An attempt of a request that began then (RFC 9562, 5.7)."""
    return f"{UUID(int=int(seconds * 1000) << 80 | 0x7ABC << 64 | 0x8 << 60 | 0x123)}-1"


def test_records_are_found_as_files_grow_and_the_last_of_an_attempt_is_the_one(tmp_path: Path) -> None:
    index = Index(tmp_path / "not there yet")
    index.refresh()
    assert index.find("r-1") is None
    index = Index(tmp_path)
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    append(one, a_record("r-1"))
    index.refresh()
    append(one, a_record("r-2"))
    append(two, a_record("r-3"), a_record("r-1", tokens=9))
    with two.open("ab") as file:
        file.write(b'{"attempt_id":"r-4","model"')
    assert index.find("r-2") is None
    index.refresh()
    assert [index.find(name) for name in ("r-2", "r-3")] == [a_record("r-2"), a_record("r-3")]
    assert index.find("r-1") == a_record("r-1", tokens=9)
    assert index.find("r-4") is None
    with two.open("ab") as file:  # the torn line is completed, as a disk that was full makes it
        file.write(line_of(a_record("r-4"))[len(b'{"attempt_id":"r-4","model"') :])
    index.refresh()
    assert index.find("r-4") == a_record("r-4")


def test_memory_is_bounded_and_what_was_forgotten_is_still_found(tmp_path: Path) -> None:
    dice = random.Random(7)
    index = Index(tmp_path, kept_max=20)
    names = [f"r-{number}" for number in range(200)]
    for start in range(0, 200, 25):
        append(tmp_path / f"{dice.randint(1, 3)}.jsonl", *(a_record(name) for name in names[start : start + 25]))
        index.refresh()
        assert len(index._new) + len(index._old) <= 20
    assert sum(index.find(name) is None for name in names) >= 180
    assert all(index.may_be_older(name) for name in names)
    assert [index.find(name) or index.find_old(name) for name in names] == [a_record(name) for name in names]
    assert index.find_old("r-") is None


def test_an_attempt_that_runs_is_not_searched_for(tmp_path: Path) -> None:
    index = Index(tmp_path, kept_max=4)
    append(tmp_path / "1.jsonl", *(a_record(uuid7_at(1_000 + at), 1_001.0 + at) for at in range(20)))
    index.refresh()
    assert not index.may_be_older(uuid7_at(2_000))  # began after everything that was forgotten had ended
    assert index.may_be_older(uuid7_at(1_003))
    assert index.may_be_older("an id of another form")


def test_a_reader_that_starts_late_passes_over_the_oldest_files_and_finds_them_all_the_same(tmp_path: Path) -> None:
    for number in range(30):
        append(tmp_path / f"{number:02}.jsonl", *(a_record(f"r-{number}-{at}") for at in range(10)))
    index = Index(tmp_path, kept_max=20)
    index.refresh()
    assert index.find("r-29-9") == a_record("r-29-9")
    assert index.find("r-0-0") is None
    assert index.may_be_older("r-0-0")
    assert index.find_old("r-0-0") == a_record("r-0-0")


def test_a_file_that_is_gone_takes_its_records_with_it_and_harms_nothing(tmp_path: Path) -> None:
    index = Index(tmp_path)
    append(tmp_path / "1.jsonl", a_record("r-1"))
    append(tmp_path / "2.jsonl", a_record("r-2"))
    index.refresh()
    (tmp_path / "1.jsonl").unlink()
    index.refresh()
    assert index.find("r-1") is None
    assert index.find("r-2") == a_record("r-2")
