"""Holds in Valkey: one round trip to reserve at all levels, one pipeline to settle a batch; rebuilt from the journal.

Counters are exact up to 2^53 (the numbers of Lua): 9·10¹⁵ tokens, or nine thousand million yen, per level and month.
docs/limits.md tells the rule, docs/decisions/0003-holds-in-valkey.md why it is kept like this.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from asyncpg import PostgresError
from redis.exceptions import RedisError

from billing.link import Link
from gateway.faults import Fault
from gateway.limits.levels import LimitLevel
from gateway.limits.month import seed_arguments
from gateway.limits.period import period_of
from gateway.limits.reservation import Hold, Reservation
from gateway.limits.scripts import Script, Scripts

__all__ = ["HeldEntry", "Hold", "Holds", "Release", "period_of"]

_LOG = logging.getLogger(__name__)

# A client may ask again the moment it has its answer, while the hold of that answer is still on its way to Valkey.
RELEASE_GRACE_S = 0.01
RETRY_S = (0.05, 0.2, 0.5, 1.0)
ZONE = "Asia/Tokyo"
# A month that is unknown again right after it was filled means that Valkey is losing what it is told.
FILLS_MAX = 3


@dataclass(frozen=True, slots=True)
class Release:
    """The end of a hold: what was used in fact (0 for a request that is charged with nothing)."""

    request_id: str
    tenant_id: str
    period: str
    tokens: int
    micro_yen: int


@dataclass(frozen=True, slots=True)
class HeldEntry:
    """A hold as Valkey stores it. `held_at` in seconds since the epoch, by Valkey's clock."""

    request_id: str
    tenant_id: str
    period: str
    instance_id: str
    held_at: int


_RESERVE = Script.load("reserve.lua")
_SETTLE = Script.load("settle.lua")
_SEED = Script.load("seed.lua")


def _keys(tenant_id: str, period: str) -> list[str]:
    """The sums of the month, the holds, the holds by level: all that a tenant has but the requests of the minute."""
    return [f"sekisho:use:{tenant_id}:{period}", f"sekisho:holds:{tenant_id}", f"sekisho:concurrent:{tenant_id}"]


class Holds:
    """The limits of all tenants, kept by one process among many; the scripts make each step atomic for all."""

    def __init__(self, valkey_url: str, dsn: str) -> None:
        self._scripts = Scripts(valkey_url)
        self._link = Link(dsn)
        self._filling: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._giving_back: set[asyncio.Task[None]] = set()

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
        """Set `tokens` and `micro_yen` aside at every level, or raise `Fault` with the limit that refuses.

        `levels` are all levels of the request from wide to narrow, the tenant first, limited or not: what is used at a
        level counts from the first request of the month, so that a limit which is set later finds it. Refused only if
        used + held + asked > limit of a level at the moment the script runs; then nothing is held at any. `licence`
        (`<id>@<version>`) is named where the grant refuses, `zone` says when the month ends. Raises
        `Fault("store_unavailable")` when Valkey is away.
        """
        asked = Reservation(request_id, tenant_id, levels, period, tokens, micro_yen, instance_id, zone, licence)
        try:
            answer = await self._reserve(asked)
            if answer[0] == "concurrency":
                await asyncio.sleep(RELEASE_GRACE_S)
                answer = await self._reserve(asked)
        except (RedisError, OSError, PostgresError) as error:
            self._give_back(asked)
            raise Fault("store_unavailable", retry_after_s=1, internal=f"limits: {error!r}") from error
        except asyncio.CancelledError:
            self._give_back(asked)
            raise
        return asked.hold(answer)

    def _give_back(self, asked: Reservation) -> None:
        """End the hold of a reservation whose answer nobody got: Valkey may have taken it all the same."""
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

    async def _reserve(self, asked: Reservation) -> Any:
        keys = [*_keys(asked.tenant_id, asked.period), f"sekisho:rate:{asked.tenant_id}"]
        return await self._run(_RESERVE, asked.tenant_id, asked.period, keys, asked.arguments)

    async def release(self, release: Release) -> None:
        """End a hold at all its levels. Raises `RedisError`, `OSError` or `PostgresError` when a store stays away; the
        worker's sweep then ends it."""
        keys = _keys(release.tenant_id, release.period)
        arguments: list[str | int] = [release.request_id, release.tokens, release.micro_yen]
        for delay in (*RETRY_S, None):
            try:
                await self._run(_SETTLE, release.tenant_id, release.period, keys, arguments)
            except (RedisError, OSError) as error:
                if delay is None:
                    raise
                _LOG.warning("hold not released, retrying: %r", error)
                await asyncio.sleep(delay)
            else:
                return

    async def _run(
        self, script: Script, tenant_id: str, period: str, keys: Sequence[str], arguments: Sequence[str | int]
    ) -> Any:
        """The script's answer, after the month was filled if Valkey did not know it."""
        for _ in range(FILLS_MAX):
            answer = await self._scripts.run(script, keys, arguments)
            if answer != "cold":
                return answer
            await self._fill(tenant_id, period)
        raise RedisError(f"the month {period} of {tenant_id} is forgotten as soon as it is filled")

    async def _fill(self, tenant_id: str, period: str) -> None:
        """Fill the sums from the journal; all who ask at the same time wait for one reading."""
        key = (tenant_id, period)
        filling = self._filling.get(key)
        if filling is None:
            filling = self._filling[key] = asyncio.create_task(self._fill_once(tenant_id, period))
            filling.add_done_callback(lambda _: self._filling.pop(key, None))
        await asyncio.shield(filling)

    async def _fill_once(self, tenant_id: str, period: str) -> None:
        keys = _keys(tenant_id, period)
        held_ids = await self._scripts.client.hkeys(keys[1])  # before the journal is read: seed.lua says why
        await self._scripts.run(_SEED, keys, await seed_arguments(self._link, tenant_id, period, held_ids))

    async def entries(self) -> AsyncIterator[HeldEntry]:
        """Every hold there is, for the sweep."""
        async for key in self._scripts.client.scan_iter(match="sekisho:holds:*", count=500):
            tenant_id = key.removeprefix("sekisho:holds:")
            async for request_id, hold in self._scripts.client.hscan_iter(key, count=500):
                parts = hold.split(":", 5)
                if len(parts) != 6:  # stops no other hold's end
                    _LOG.error("the hold of %s (%s) is not in form: %r", request_id, tenant_id, hold)
                    continue
                _, _, period, instance_id, held_at, _ = parts
                yield HeldEntry(request_id, tenant_id, period, instance_id, int(held_at))

    async def ping(self) -> bool:
        """Whether Valkey answers."""
        try:
            return bool(await self._scripts.client.ping())
        except (RedisError, OSError):
            return False

    async def close(self) -> None:
        """Finish what is queued, then close the connections."""
        await asyncio.gather(*self._giving_back)
        await self._scripts.close()
        await self._link.close()
