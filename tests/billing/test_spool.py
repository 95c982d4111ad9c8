"""Settlements on disk: durable, bounded, read again, and never twice in the journal."""

import os
from pathlib import Path

import pytest

from billing.spool import Spool, SpoolFull, leftovers, settlements
from billing.types import Settlement, Usage
from tests.billing.rows import a_settlement, an_open_row

USAGE = Usage(prompt=30, cached=10, completion=7, reasoning=2, image=3)


def a_kept() -> Settlement:
    return a_settlement(an_open_row("t-1"), USAGE)


async def test_what_is_kept_is_read_again_as_it_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", "gateway-1")
    kept = [a_kept(), a_kept()]
    for settlement in kept:
        await spool.keep(settlement)
        await spool.keep(settlement)  # a second time while it waits
    ((instance_id, path),) = leftovers(tmp_path / "spool").items()
    assert instance_id == "gateway-1"
    assert list(settlements(path)) == kept
    assert path.stat().st_mode & 0o777 == 0o600


async def test_file_is_gone_when_nothing_waits_any_more(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "gateway-1")
    first, second = a_kept(), a_kept()
    await spool.keep(first)
    await spool.keep(second)
    await spool.stored(first.request_id)
    assert leftovers(tmp_path)
    await spool.stored(second.request_id)
    assert not leftovers(tmp_path)
    await spool.keep(first)  # the next outage
    assert [kept.request_id for kept in settlements(leftovers(tmp_path)["gateway-1"])] == [first.request_id]


async def test_line_that_a_death_has_torn_is_left_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "gateway-1")
    whole = a_kept()
    await spool.keep(whole)
    path = leftovers(tmp_path)["gateway-1"]
    for size in range(1, 60):
        path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n" + path.read_bytes()[:size])
        assert list(settlements(path)) == [whole]


@pytest.mark.parametrize("bounds", [{"rows_max": 2}, {"bytes_max": 700}])
async def test_full_spool_takes_no_more_and_says_so(tmp_path: Path, bounds: dict[str, int]) -> None:
    spool = Spool(tmp_path, "gateway-1", **bounds)
    kept = [a_kept(), a_kept()]
    for settlement in kept:
        assert not spool.full
        await spool.keep(settlement)
    assert spool.full
    with pytest.raises(SpoolFull):
        await spool.keep(a_kept())
    await spool.stored(kept[0].request_id)
    await spool.stored(kept[1].request_id)
    assert not spool.full


async def test_settlement_is_on_disk_before_keep_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    await Spool(tmp_path, "gateway-1").keep(a_kept())
    assert len(synced) == 2  # the line, and the file's name in its folder
