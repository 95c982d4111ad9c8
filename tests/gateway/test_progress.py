"""What a running request leaves in the journal, so that somebody else can end it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest_asyncio

from billing.journal import Journal, Mark
from billing.types import Usage
from gateway.edge.progress import TICK_S, TOKENS_MAX, Progress
from tests.billing.rows import NOW, an_open_row
from tests.conftest import Stores, a_tenant

UNTIL_S = 5.0


@pytest_asyncio.fixture
async def journal(stores: Stores) -> AsyncIterator[Journal]:
    journal = Journal(stores.dsn)
    yield journal
    await journal.close()


@pytest_asyncio.fixture
async def progress(journal: Journal) -> AsyncIterator[Progress]:
    progress = Progress(journal)
    running = asyncio.create_task(progress.run())
    yield progress
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def state_of(database: Any, request_id: str) -> tuple[str, int]:
    row = await database.fetchrow("SELECT state, attempt FROM journal WHERE request_id = $1::text::uuid", request_id)
    return row["state"], row["attempt"]


async def until(condition: Callable[[], Any], wanted: object) -> None:
    async with asyncio.timeout(UNTIL_S):
        while await condition() != wanted:  # noqa: ASYNC110 # another connection changes it
            await asyncio.sleep(0.02)


async def test_request_that_waits_for_its_first_byte_is_written_down_as_dispatched(
    journal: Journal, progress: Progress, database: Any
) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    progress.sent(row.request_id, 1)
    await until(lambda: state_of(database, row.request_id), ("dispatched", 1))


async def test_second_attempt_is_written_down_with_its_number(
    journal: Journal, progress: Progress, database: Any
) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    progress.sent(row.request_id, 1)
    progress.sent(row.request_id, 2)
    await until(lambda: state_of(database, row.request_id), ("dispatched", 2))


async def test_request_whose_first_byte_is_here_stays_streaming(
    journal: Journal, progress: Progress, database: Any
) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    progress.sent(row.request_id, 1)
    progress.begun(row.request_id)
    assert await journal.marks.put(Mark(row.request_id, 1, True, Usage(3, 0, 1, 0), NOW + 1))
    await asyncio.sleep(2.5 * TICK_S)
    assert await state_of(database, row.request_id) == ("streaming", 1)


async def test_mark_of_a_dispatch_that_comes_late_does_not_undo_the_first_byte(journal: Journal, database: Any) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    await journal.marks.put(Mark(row.request_id, 1, True, Usage(3, 0, 1, 0), NOW + 1))
    await journal.marks.put(Mark(row.request_id, 1, False, Usage(), NOW + 2, sent=True))
    assert await state_of(database, row.request_id) == ("streaming", 1)


class Marks:
    """Takes marks and stores nothing."""

    def __init__(self) -> None:
        self.taken: list[Mark] = []
        self.marks = self

    def put(self, mark: Mark) -> "asyncio.Future[bool]":
        self.taken.append(mark)
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        done.set_result(True)
        return done


async def test_every_32_tokens_are_written_without_waiting_for_the_tick() -> None:
    marks = Marks()
    progress = Progress(marks)  # type: ignore[arg-type] # all that is used of a journal is its queue of marks
    running = asyncio.create_task(progress.run())
    for completion in range(1, 4 * TOKENS_MAX + 1):
        progress.note("r", 1, Usage(5, 0, completion, 0))
        await asyncio.sleep(0.001)
    running.cancel()
    written = [0, *(mark.usage.completion for mark in marks.taken)]
    gaps = [after - before for before, after in pairwise(written)]
    # A write may be on its way while more tokens come: it begins at 32, or when the tick is over.
    assert len(marks.taken) >= 2
    assert max(gaps) < 2 * TOKENS_MAX


async def test_media_tokens_of_a_checkpoint_are_kept(journal: Journal, database: Any) -> None:
    row = an_open_row(a_tenant().tenant_id)
    await journal.opens.put(row)
    usage = Usage(prompt=100, cached=4, completion=9, reasoning=2, image=64, audio=10)
    await journal.marks.put(Mark(row.request_id, 1, True, usage, NOW + 1))
    kept = await database.fetchrow(
        "SELECT image_tokens, audio_tokens FROM journal_progress WHERE request_id = $1::text::uuid", row.request_id
    )
    assert tuple(kept) == (64, 10)
