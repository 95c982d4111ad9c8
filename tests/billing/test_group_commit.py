"""Group commit: order, isolation of failures, nothing forgotten."""

import asyncio
from collections.abc import Sequence

import pytest

from billing.group_commit import BATCH_ROWS_MAX, GroupCommit


class Sink:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def flush(self, items: Sequence[int]) -> None:
        await asyncio.sleep(0)
        if any(item < 0 for item in items):
            raise ValueError("negative")
        self.batches.append(list(items))


async def test_what_arrives_during_a_flush_goes_into_the_next_batch() -> None:
    sink = Sink()
    queue = GroupCommit(sink.flush)
    first = queue.put(1)
    await asyncio.sleep(0)
    rest = [queue.put(item) for item in (2, 3, 4)]
    await asyncio.gather(first, *rest)
    assert sink.batches == [[1], [2, 3, 4]]


async def test_batches_are_bounded_and_keep_the_order() -> None:
    sink = Sink()
    queue = GroupCommit(sink.flush)
    await asyncio.gather(*(queue.put(item) for item in range(BATCH_ROWS_MAX + 10)))
    assert [len(batch) for batch in sink.batches] == [BATCH_ROWS_MAX, 10]
    assert [item for batch in sink.batches for item in batch] == list(range(BATCH_ROWS_MAX + 10))


async def test_only_the_bad_item_fails() -> None:
    sink = Sink()
    queue = GroupCommit(sink.flush)
    results = await asyncio.gather(*(queue.put(item) for item in (1, -1, 2)), return_exceptions=True)
    assert [type(result) for result in results] == [bool, ValueError, bool]


async def test_bad_item_that_is_alone_is_not_tried_again() -> None:
    tried = 0

    async def refuse(items: Sequence[int]) -> None:
        nonlocal tried
        tried += 1
        raise ValueError("bad")

    queue = GroupCommit(refuse)
    with pytest.raises(ValueError, match="bad"):
        await queue.put(1)
    assert tried == 1


async def test_close_waits_for_everything() -> None:
    sink = Sink()
    queue = GroupCommit(sink.flush)
    futures = [queue.put(item) for item in range(3)]
    await queue.close()
    assert all(future.done() for future in futures)


async def test_store_that_is_away_fails_all_at_once() -> None:
    calls = 0

    async def away(items: Sequence[int]) -> None:
        nonlocal calls
        calls += 1
        raise OSError("away")

    queue = GroupCommit(away)
    futures = [queue.put(item) for item in range(50)]
    with pytest.raises(OSError, match="away"):
        await futures[0]
    assert calls == 1


async def test_item_that_touched_no_row_is_told_so() -> None:
    async def flush(items: Sequence[int]) -> set[int]:
        return {position for position, item in enumerate(items) if item % 2}

    queue = GroupCommit(flush)
    assert await asyncio.gather(*(queue.put(item) for item in (1, 2, 3))) == [False, True, False]
