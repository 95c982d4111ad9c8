"""Group commit: many requests' rows in one statement, so that one flush to disk serves all who wait for it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Generic, TypeVar

from billing.link import GivenUp

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_ROWS_MAX = 256
# A row alone holds no lock that another row of ours waits for, so the first of these passes but for bad luck.
ALONE_AGAIN_S = (0.02, 0.1, 0.5)


class GroupCommit(Generic[T]):
    """Collects items and hands them to `flush` in batches, one batch at a time, in the order of arrival.

    `put` returns a future that resolves when the item's batch is stored, or raises what `flush` raised for it. It is
    False when `flush` named the item's position among those that touched no row.
    A batch that fails is retried item by item, so one bad row cannot take its neighbours down. What PostgreSQL gave up
    for the sake of another statement (a deadlock, a serialization failure) is tried again; a store that is away fails
    all at once, for the callers to wait.
    """

    def __init__(self, flush: Callable[[Sequence[T]], Awaitable[Collection[int] | None]]) -> None:
        self._flush = flush
        self._waiting: list[tuple[T, asyncio.Future[bool]]] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, item: T) -> asyncio.Future[bool]:
        """Queue `item`; the future resolves when it is stored (False: there was no row for it to touch)."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return future

    async def close(self) -> None:
        """Wait until everything queued is stored or has failed."""
        while self._task is not None:
            await asyncio.shield(self._task)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_ROWS_MAX], self._waiting[BATCH_ROWS_MAX:]
                await self._store(batch)
        finally:
            self._task = None

    async def _store(self, batch: list[tuple[T, "asyncio.Future[bool]"]]) -> None:
        try:
            await self._flush_into(batch)
        except Exception as error:
            again = isinstance(error, GivenUp) or (len(batch) > 1 and not isinstance(error, OSError))
            if not again:
                for _, future in batch:
                    _fail(future, error)
                return
            _LOG.warning("a batch of %d is stored row by row: %s", len(batch), error)
            for item, future in batch:
                await self._store_alone(item, future)

    async def _store_alone(self, item: T, future: "asyncio.Future[bool]") -> None:
        for delay in (*ALONE_AGAIN_S, None):
            try:
                await self._flush_into([(item, future)])
            except GivenUp as error:
                if delay is None:
                    _fail(future, error)
                    return
                await asyncio.sleep(delay)
            except Exception as error:
                _fail(future, error)
                return
            else:
                return

    async def _flush_into(self, batch: list[tuple[T, "asyncio.Future[bool]"]]) -> None:
        untouched = await self._flush([item for item, _ in batch]) or ()
        for position, (_, future) in enumerate(batch):
            if not future.done():
                future.set_result(position not in untouched)


def _fail(future: "asyncio.Future[bool]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # the one who asked may be gone; asyncio must not report it as never retrieved
