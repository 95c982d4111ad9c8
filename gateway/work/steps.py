"""Steps of the worker: one that fails is told of, repeated later, and keeps no other from its turn."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from asyncpg import PostgresError
from redis.exceptions import RedisError

_LOG = logging.getLogger(__name__)


async def step(name: str, work: Awaitable[object]) -> None:
    """One step of a round; what goes wrong in it is told and does not keep the others from their turn."""
    try:
        await work
    except Exception as error:
        _LOG.warning("%s given up, the next round repeats it: %r", name, error, exc_info=not _expected(error))


def _expected(error: Exception) -> bool:
    return isinstance(error, OSError | PostgresError | RedisError)


async def every(stop: asyncio.Event, period_s: float, name: str, work: Callable[[], Awaitable[object]]) -> None:
    """`work` beside the leader's rounds, which it must never delay, until `stop` is set."""
    while not stop.is_set():
        await step(name, work())
        try:
            await asyncio.wait_for(stop.wait(), period_s)
        except TimeoutError:
            continue
