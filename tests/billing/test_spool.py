"""Settlements on disk: durable, bounded, read again, and never twice in the journal."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from billing.journal import Journal
from billing.link import StoreUnavailable
from billing.spool import SUFFIX, Spool, SpoolFull, replay, settlements
from billing.types import OpenRow, Settlement, Usage
from tests.billing.rows import a_settlement, an_open_row
from tests.conftest import Stores, a_tenant

USAGE = Usage(prompt=30, cached=10, completion=7, reasoning=2, image=3)


def a_kept() -> Settlement:
    return a_settlement(an_open_row("t-1"), USAGE)


def file_of(folder: Path, instance_id: str = "gateway-1") -> Path:
    return folder / f"{instance_id}{SUFFIX}"


async def test_what_is_kept_is_read_again_as_it_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", "gateway-1")
    kept = [a_kept(), a_kept()]
    for settlement in kept:
        await spool.keep(settlement)
        await spool.keep(settlement)  # a second time while it waits
    path = file_of(tmp_path / "spool")
    assert list(settlements(path)) == kept
    assert path.stat().st_mode & 0o777 == 0o600


async def test_file_is_gone_when_nothing_waits_any_more(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "gateway-1")
    first, second = a_kept(), a_kept()
    await spool.keep(first)
    await spool.keep(second)
    await spool.stored(first.request_id)
    assert file_of(tmp_path).exists()
    await spool.stored(second.request_id)
    assert not file_of(tmp_path).exists()
    await spool.keep(first)  # the next outage
    assert [kept.request_id for kept in settlements(file_of(tmp_path))] == [first.request_id]


async def test_line_that_a_death_has_torn_is_left_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "gateway-1")
    whole = a_kept()
    await spool.keep(whole)
    path = file_of(tmp_path)
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


async def test_line_that_a_full_disk_cut_short_spoils_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, "gateway-1")
    before, lost, after = a_kept(), a_kept(), a_kept()
    await spool.keep(before)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:50]))
    with pytest.raises(OSError, match="part of a line"):
        await spool.keep(lost)
    monkeypatch.setattr(os, "write", write)
    await spool.keep(after)
    await spool.keep(lost)  # the disk has room again
    assert list(settlements(file_of(tmp_path))) == [before, after, lost]


@pytest_asyncio.fixture
async def journal(stores: Stores) -> AsyncIterator[Journal]:
    journal = Journal(stores.dsn)
    yield journal
    await journal.close()


async def opened(journal: Journal, number: int) -> list[OpenRow]:
    rows = [an_open_row(a_tenant().tenant_id) for _ in range(number)]
    for row in rows:
        await journal.opens.put(row)
    return rows


async def states(database: Any, rows: list[OpenRow]) -> list[tuple[str, int]]:
    found = await database.fetch(
        "SELECT state, prompt_tokens FROM journal WHERE request_id = ANY($1::text[]::uuid[]) ORDER BY request_id",
        [row.request_id for row in rows],
    )
    return [tuple(row) for row in found]


async def test_what_a_dead_process_left_is_settled_once(tmp_path: Path, journal: Journal, database: Any) -> None:
    rows = await opened(journal, 3)
    spool = Spool(tmp_path, "gateway-1")
    for row in rows:
        await spool.keep(a_settlement(row, USAGE))
    await journal.settlements.put(a_settlement(rows[0], Usage(9, 0, 9, 0)))  # its answer was lost, not the settlement
    spool.close()
    assert await replay(tmp_path, journal) == 1
    assert await states(database, rows) == [("settled", 9), ("settled", 30), ("settled", 30)]
    assert not file_of(tmp_path).exists()
    assert await replay(tmp_path, journal) == 0


async def test_file_of_a_living_process_is_left_alone(tmp_path: Path, journal: Journal, database: Any) -> None:
    rows = await opened(journal, 1)
    spool = Spool(tmp_path, "gateway-1")
    await spool.keep(a_settlement(rows[0], USAGE))
    assert await replay(tmp_path, journal) == 0
    assert await states(database, rows) == [("open", 0)]
    spool.close()
    await spool.keep(a_kept())  # a straggler after the end makes the file its own again
    assert await replay(tmp_path, journal) == 0
    spool.close()


async def test_file_stays_while_the_database_is_away(tmp_path: Path, stores: Stores) -> None:
    kept = a_kept()
    spool = Spool(tmp_path, "gateway-1")
    await spool.keep(kept)
    spool.close()
    away = Journal(stores.dsn.replace("/pg", "/nowhere"))
    with pytest.raises(StoreUnavailable):
        await replay(tmp_path, away)
    assert list(settlements(file_of(tmp_path))) == [kept]


async def test_settlement_that_the_database_refuses_is_kept_for_a_person(
    tmp_path: Path, journal: Journal, database: Any
) -> None:
    rows = await opened(journal, 2)
    spool = Spool(tmp_path, "gateway-1")
    await spool.keep(a_settlement(rows[0], USAGE, audit_record="r" * 700))
    await spool.keep(a_settlement(rows[1], USAGE))
    spool.close()
    assert await replay(tmp_path, journal) == 1
    assert await states(database, rows) == [("open", 0), ("settled", 30)]
    buried = await database.fetchval(
        "SELECT count(*) FROM settle_dead WHERE request_id = $1::text::uuid", rows[0].request_id
    )
    assert buried == 1
