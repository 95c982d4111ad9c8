"""Holds: one round trip to reserve at all levels, one to end; in Valkey, or in the book while Valkey is away.

Counters are exact up to 2^53 (the numbers of Lua): 9·10¹⁵ tokens, or nine thousand million yen, per level and month.
docs/limits.md tells the rule, docs/decisions/0003-holds-in-valkey.md and 0014-limits-without-valkey.md why they are
kept like this.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from asyncpg import PostgresError
from redis.exceptions import RedisError

from billing.link import StoreUnavailable
from gateway.faults import Fault
from gateway.limits.book import BookLimits
from gateway.limits.fills import Fills
from gateway.limits.levels import LimitLevel
from gateway.limits.modes import Modes
from gateway.limits.period import period_of
from gateway.limits.report import LevelStanding, standings
from gateway.limits.reservation import Hold, Refusal, Reservation
from gateway.limits.types import HeldEntry, Mode, Release, Unknown
from gateway.limits.valkey import ValkeyLimits

__all__ = ["HeldEntry", "Hold", "Holds", "Refusal", "Release", "period_of"]

_LOG = logging.getLogger(__name__)

# A client may ask again the moment it has its answer, while the hold of that answer is still on its way to the store.
RELEASE_GRACE_S = 0.01
RETRY_S = (0.05, 0.2, 0.5, 1.0)
ZONE = "Asia/Tokyo"
# A generation that is over is followed by the next one; more than that in one request is a store that comes and goes.
GENERATIONS_MAX = 3


class Holds:
    """The limits of all tenants, kept by one process among many; each step is atomic for all. `admits` False: it ends
    holds only, as the worker does."""

    def __init__(self, valkey_url: str, dsn: str, *, admits: bool = True) -> None:
        self._fills = Fills(dsn)
        self._valkey = ValkeyLimits(valkey_url, self._fills)
        self._book = BookLimits(dsn, self._fills)
        self._shrinking: set[asyncio.Task[None]] = set()
        self._giving_back: set[asyncio.Task[None]] = set()
        self._tidied = 0
        self.modes = Modes(dsn, self._valkey, admits=admits)

    async def reserve(
        self,
        request_id: str,
        tenant_id: str,
        levels: Sequence[LimitLevel],
        period: str,
        tokens: int,
        micro_yen: int,
        instance_id: str,
        *,
        licence: str | None = None,
        zone: str = ZONE,
    ) -> Hold:
        """Set `tokens` and `micro_yen` aside at every level, or raise `Refusal` with the limit that refuses.

        `levels` are all levels of the request from wide to narrow, the tenant first, limited or not: what is used at a
        level counts from the first request of the month, so that a limit which is set later finds it. Refused only if
        used + held + asked > limit of a level at the moment of the step; then nothing is held at any. `licence`
        (`<id>@<version>`) is named where the grant refuses, `zone` says when the month ends. Raises
        `Fault("store_unavailable")` when neither store can be gone by.
        """
        asked = Reservation(request_id, tenant_id, levels, period, tokens, micro_yen, instance_id, zone, licence)
        try:
            return await self._hold(asked)
        except Refusal:
            raise
        except (Fault, asyncio.CancelledError):
            self._give_back(asked)
            raise

    def _give_back(self, asked: Reservation) -> None:
        """End the hold of a reservation whose answer nobody got: the store may have taken it all the same."""
        task = asyncio.create_task(self._try_release(Release(asked.request_id, asked.tenant_id, asked.period, 0, 0)))
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)

    async def _try_release(self, release: Release) -> None:
        try:
            await self.release(release)
        except (RedisError, OSError, PostgresError) as error:
            _LOG.warning(
                "the hold of %s, if there is one, is left to the worker's sweep: %r", release.request_id, error
            )

    async def confirm(self, hold: Hold) -> Hold:
        """The hold in the generation in force; to be called once the request's row is durable and before anything of
        its answer leaves. Raises as `reserve` does: a generation that has read the row has the hold, one that had begun
        before may have given its place away."""
        if self.modes.in_force(hold.generation):
            return hold
        return await self._hold(hold.asked)

    async def _hold(self, asked: Reservation) -> Hold:
        for _ in range(GENERATIONS_MAX):
            mode = await self.modes.admitting()
            try:
                answer = await self._store(mode).reserve(mode, asked)
                if answer[0] == "concurrency":
                    await asyncio.sleep(RELEASE_GRACE_S)
                    answer = await self._store(mode).reserve(mode, asked)
            except Unknown:
                await self.modes.beyond(mode.generation)
                continue
            except (RedisError, OSError, PostgresError) as error:
                if mode.kind == "valkey" and not isinstance(error, StoreUnavailable):
                    self.modes.failed()
                raise Fault("store_unavailable", retry_after_s=1, internal=f"limits: {error!r}") from error
            return asked.hold(answer, mode.generation)
        raise Fault("store_unavailable", retry_after_s=1, internal="limits: the store comes and goes")

    async def release(self, release: Release) -> None:
        """End a hold at all its levels; the request's row is final, or it has none. Raises `RedisError`, `OSError` or
        `PostgresError` when a store stays away; the worker's sweep then ends it."""
        for delay in (*RETRY_S, None):
            try:
                mode = await self.modes.latest()
                if mode is not None:
                    await self._store(mode).change(mode, release, "end")
            except Unknown:
                return  # what comes next reads the journal
            except (RedisError, OSError) as error:
                if delay is None:
                    raise
                _LOG.warning("hold not released, retrying: %r", error)
                await asyncio.sleep(delay)
            else:
                return

    def shrink(self, hold: Hold, tokens: int, micro_yen: int) -> None:
        """Lower a hold to what can still be used. Waits for nothing; a hold that cannot be lowered stays as it is."""
        release = Release(hold.request_id, hold.tenant_id, hold.period, tokens, micro_yen)
        task = asyncio.create_task(self._shrink(hold.generation, release))
        self._shrinking.add(task)
        task.add_done_callback(self._shrinking.discard)

    async def _shrink(self, generation: int, release: Release) -> None:
        try:
            mode = await self.modes.admitting()
            if mode.generation == generation:
                await self._store(mode).change(mode, release, "shrink")
        except (Fault, Unknown, RedisError, OSError, PostgresError) as error:
            _LOG.info("hold of %s stays as large as it was: %r", release.request_id, error)

    async def look(
        self, tenant_id: str, levels: Sequence[LimitLevel], period: str
    ) -> tuple[int, Sequence[LevelStanding]]:
        """The store's time in seconds since the epoch, and how each level stands. Holds nothing. Raises
        `Fault("store_unavailable")`."""
        names = [level.name for level in levels]
        for _ in range(GENERATIONS_MAX):
            mode = await self.modes.admitting()
            try:
                figures: Sequence[int] = await self._store(mode).look(mode, tenant_id, period, names)
            except Unknown:
                await self.modes.beyond(mode.generation)
                continue
            except (RedisError, OSError, PostgresError) as error:
                raise Fault("store_unavailable", retry_after_s=1, internal=f"limits: {error!r}") from error
            return figures[0], standings(levels, figures[1:])
        raise Fault("store_unavailable", retry_after_s=1, internal="limits: the store comes and goes")

    async def entries(self) -> AsyncIterator[HeldEntry]:
        """Every hold there is, for the sweep; none while a generation begins."""
        mode = await self.modes.latest()
        if mode is not None:
            async for entry in self._store(mode).entries(mode):
                yield entry

    async def tidy(self) -> None:
        """Delete what generations that are over have left in Valkey."""
        mode = await self.modes.latest()
        if mode is not None and mode.kind == "valkey" and mode.generation != self._tidied:
            await self._valkey.forget_others(mode.name)
            self._tidied = mode.generation

    async def ready(self) -> None:
        """Begin to know where limits are kept. Raises `Fault("store_unavailable")` when that takes too long."""
        await self.modes.ready()

    def _store(self, mode: Mode) -> Any:
        return self._valkey if mode.kind == "valkey" else self._book

    async def close(self) -> None:
        """Finish what is queued, then close the connections."""
        await asyncio.gather(*self._giving_back)
        if self._shrinking:
            await asyncio.wait(self._shrinking)
        await self.modes.close()
        await self._valkey.close()
        await self._book.close()
        await self._fills.close()
