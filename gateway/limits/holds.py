"""Holds in Valkey: one round trip to reserve, one pipeline to settle a batch, rebuilt from the journal when unknown.

Counters are exact up to 2^53 (the numbers of Lua): 9·10¹⁵ tokens, or nine thousand million yen, per tenant and month.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec
from asyncpg import PostgresError
from redis.exceptions import RedisError

from billing.link import Link
from gateway.faults import Fault
from gateway.limits.scripts import Script, Scripts
from gateway.tenancy.snapshot import Tenant

_LOG = logging.getLogger(__name__)

# A client may ask again the moment it has its answer, while the hold of that answer is still on its way to Valkey.
RELEASE_GRACE_S = 0.01
RETRY_S = (0.05, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Hold:
    """What a request may use at most, and what the tenant's limits leave after it (for `x-ratelimit-*`)."""

    request_id: str
    tenant_id: str
    period: str
    tokens: int
    micro_yen: int
    remaining_tokens: int
    remaining_requests: int
    reset_s: int


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


def period_of(at_us: int, zone: str) -> str:
    """The calendar month `YYYYMM` of `zone` that the time `at_us` (microseconds since the epoch) falls into."""
    return _period_of_quarter(at_us // _QUARTER_HOUR_US, zone)


_QUARTER_HOUR_US = 15 * 60 * 1_000_000


@lru_cache(maxsize=1_024)
def _period_of_quarter(quarter: int, zone: str) -> str:
    # Every zone's offset is a multiple of 15 minutes today, so no month begins within a quarter of an hour.
    return datetime.fromtimestamp(quarter * 15 * 60, ZoneInfo(zone)).strftime("%Y%m")


_RESERVE = Script.load("reserve.lua")
_SETTLE = Script.load("settle.lua")
_FILL = Script.load("seed.lua")


def _use_key(tenant_id: str, period: str) -> str:
    return f"sekisho:use:{tenant_id}:{period}"


def _holds_key(tenant_id: str) -> str:
    return f"sekisho:holds:{tenant_id}"


# One statement, therefore one snapshot: a row that settles meanwhile is in exactly one of the two sums. The range of
# ids (UUIDv7 begins with the time) leads to the partitions of the month.
_SEED = """
WITH month AS (
  SELECT uuid7_floor(to_date($2, 'YYYYMM') - interval '2 days') AS first,
    uuid7_floor(to_date($2, 'YYYYMM') + interval '1 month 2 days') AS after
), used AS (
  SELECT coalesce(sum(prompt_tokens + completion_tokens), 0)::bigint AS tokens,
    coalesce(sum(micro_yen), 0)::bigint AS micro_yen
  FROM journal WHERE tenant_id = $1 AND period = $2 AND settled_at IS NOT NULL
    AND request_id >= (SELECT first FROM month) AND request_id < (SELECT after FROM month)
)
SELECT used.tokens, used.micro_yen,
  (SELECT coalesce(json_agg(json_build_array(request_id, held_tokens || ':' || held_micro_yen || ':' || period || ':'
      || instance_id || ':' || extract(epoch FROM opened_at)::bigint)), '[]')::text FROM journal
    WHERE tenant_id = $1 AND period = $2 AND state IN ('open', 'dispatched', 'streaming')) AS holds
FROM used
"""


class Holds:
    """The limits of all tenants, kept by one process among many; the scripts make each step atomic for all."""

    def __init__(self, valkey_url: str, dsn: str) -> None:
        self._scripts = Scripts(valkey_url)
        self._link = Link(dsn)
        self._filling: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def reserve(
        self, request_id: str, tenant: Tenant, period: str, tokens: int, micro_yen: int, instance_id: str
    ) -> Hold:
        """Set `tokens` and `micro_yen` aside, or raise `Fault` with the limit that refuses.

        Refused only if used + held + asked > limit at the moment the script runs. Raises
        `Fault("store_unavailable")` when Valkey is away.
        """
        keys = [_use_key(tenant.tenant_id, period), _holds_key(tenant.tenant_id), f"sekisho:rate:{tenant.tenant_id}"]
        limits = tenant.limits
        arguments: list[str | int] = [
            request_id, tokens, micro_yen, limits.tokens_month, limits.micro_yen_month, limits.rpm, limits.concurrency,
            period, instance_id,
        ]  # fmt: skip
        try:
            answer = await self._scripts.run(_RESERVE, keys, arguments)
            if answer[0] == "cold":
                await self._fill(tenant.tenant_id, period)
                answer = await self._scripts.run(_RESERVE, keys, arguments)
            if answer[0] == "concurrency":
                await asyncio.sleep(RELEASE_GRACE_S)
                answer = await self._scripts.run(_RESERVE, keys, arguments)
        except (RedisError, OSError, PostgresError) as error:
            raise Fault("store_unavailable", retry_after_s=1, internal=f"limits: {error!r}") from error
        verdict, left_tokens, left_micro_yen, left_requests, reset_s, _ = answer
        if verdict != "held":
            raise _refusal(verdict, tenant, tokens, micro_yen, int(left_tokens), int(left_micro_yen), int(reset_s))
        return Hold(
            request_id, tenant.tenant_id, period, tokens, micro_yen, int(left_tokens), int(left_requests), int(reset_s)
        )

    async def _fill(self, tenant_id: str, period: str) -> None:
        """Fill the counters from the journal; all who ask at the same time wait for one reading."""
        key = (tenant_id, period)
        filling = self._filling.get(key)
        if filling is None:
            filling = self._filling[key] = asyncio.create_task(self._fill_once(tenant_id, period))
            filling.add_done_callback(lambda _: self._filling.pop(key, None))
        await asyncio.shield(filling)

    async def _fill_once(self, tenant_id: str, period: str) -> None:
        row = (await self._link.fetch(_SEED, tenant_id, period))[0]
        arguments: list[str | int] = [row["tokens"], row["micro_yen"]]
        for request_id, hold in msgspec.json.decode(row["holds"], type=list[tuple[str, str]]):
            arguments += [request_id, hold]
        await self._scripts.run(_FILL, [_use_key(tenant_id, period), _holds_key(tenant_id)], arguments)

    async def release(self, release: Release) -> None:
        """End a hold. Raises `RedisError` or `OSError` when Valkey stays away; the worker's sweep then ends it."""
        keys = [_use_key(release.tenant_id, release.period), _holds_key(release.tenant_id)]
        for delay in (*RETRY_S, None):
            try:
                await self._scripts.run(_SETTLE, keys, [release.request_id, release.tokens, release.micro_yen])
            except (RedisError, OSError) as error:
                if delay is None:
                    raise
                _LOG.warning("hold not released, retrying: %r", error)
                await asyncio.sleep(delay)
            else:
                return

    async def entries(self) -> AsyncIterator[HeldEntry]:
        """Every hold there is, for the sweep."""
        async for key in self._scripts.client.scan_iter(match="sekisho:holds:*", count=500):
            tenant_id = key.removeprefix("sekisho:holds:")
            async for request_id, hold in self._scripts.client.hscan_iter(key, count=500):
                _, _, period, instance_id, held_at = hold.split(":")
                yield HeldEntry(request_id, tenant_id, period, instance_id, int(held_at))

    async def ping(self) -> bool:
        """Whether Valkey answers."""
        try:
            return bool(await self._scripts.client.ping())
        except (RedisError, OSError):
            return False

    async def close(self) -> None:
        """Finish what is queued, then close the connections."""
        await self._scripts.close()
        await self._link.close()


def _refusal(
    verdict: str, tenant: Tenant, tokens: int, micro_yen: int, left_tokens: int, left_micro_yen: int, reset_s: int
) -> Fault:
    limits = tenant.limits
    if verdict == "tokens_month":
        return Fault(
            "insufficient_quota", rule="limit:tokens_month", limit_name="tokens_month", unit=" tokens",
            needed=tokens, remaining=max(0, left_tokens),
        )  # fmt: skip
    if verdict == "micro_yen_month":
        return Fault(
            "insufficient_quota", rule="limit:micro_yen_month", limit_name="micro_yen_month", unit=" micro-yen",
            needed=micro_yen, remaining=max(0, left_micro_yen),
        )  # fmt: skip
    if verdict == "concurrency":
        return Fault(
            "rate_limit_exceeded", rule="limit:concurrency", limit_name="concurrency", limit=limits.concurrency,
            retry_after_s=1,
        )  # fmt: skip
    return Fault(
        "rate_limit_exceeded", rule="limit:rpm", limit_name="rpm", limit=limits.rpm, retry_after_s=max(1, reset_s)
    )
