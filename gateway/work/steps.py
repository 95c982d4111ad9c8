"""Steps of the worker: one that fails is told of, repeated later, and keeps no other from its turn."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from asyncpg import PostgresError
from redis.exceptions import RedisError

_LOG = logging.getLogger(__name__)

BATCHES_MAX = 200

_T = TypeVar("_T")


async def step(name: str, work: Awaitable[_T]) -> _T | None:
    """One step of a round, and what it returned; what goes wrong in it is told (None) and does not keep the others from
    their turn."""
    try:
        return await work
    except Exception as error:
        _LOG.warning("%s given up, the next round repeats it: %r", name, error, exc_info=not _expected(error))
        return None


def _expected(error: Exception) -> bool:
    return isinstance(error, OSError | PostgresError | RedisError)


async def every(stop: asyncio.Event, period_s: float, name: str, work: Callable[[], Awaitable[object]]) -> None:
    """`work` beside the leader's rounds, which it must never delay, until `stop` is set; again at once where it
    returned True, for there is more."""
    while not stop.is_set():
        more = await step(name, work())
        try:
            await asyncio.wait_for(stop.wait(), 0.0 if more is True else period_s)
        except TimeoutError:
            continue


async def emptied(name: str, batch: Callable[[], Awaitable[int]], size: int) -> None:
    """Batches until one is smaller than `size`, 200 at most: what comes faster than one batch a round would pile up."""
    for _ in range(BATCHES_MAX):
        done = await step(name, batch())
        if done is None or done < size:
            return
