"""Limits in Valkey: one script per step, one round trip each; what Valkey does not know is filled in from the journal.

Every key carries the name of its generation (see `gateway.limits.modes`), and every connection is checked to lead to
the run of Valkey in which the generation began: what another run holds, one that was restarted from a file or promoted
from a replica, is never believed.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisError

from gateway.limits.fills import Fills
from gateway.limits.month import seed_arguments
from gateway.limits.reservation import Reservation
from gateway.limits.scripts import VALKEY_S_MAX, Script, Scripts
from gateway.limits.types import HeldEntry, Mode, Release, Unknown

_LOG = logging.getLogger(__name__)

# A month that is unknown again right after it was filled means that Valkey is losing what it is told.
FILLS_MAX = 3

_RESERVE = Script.load("reserve.lua")
_SETTLE = Script.load("settle.lua")
_SEED = Script.load("seed.lua")
_LOOK = Script.load("look.lua")


class ValkeyLimits:
    """The limits of all tenants in Valkey. Methods raise `RedisError` or `OSError` when it is away, and `Unknown` when
    it has lost the generation."""

    def __init__(self, url: str, fills: Fills) -> None:
        self._scripts = Scripts(url, on_connect=self._check_run)
        self._observer: Any = Redis.from_url(
            url, socket_timeout=VALKEY_S_MAX, socket_connect_timeout=VALKEY_S_MAX, decode_responses=True,
            retry=Retry(NoBackoff(), 0), max_connections=4,
        )  # fmt: skip
        self._fills = fills
        self._run = ""

    async def expect(self, run: str) -> None:
        """From now on only connections to `run` are used."""
        if run != self._run:
            self._run = run
            await self._scripts.client.connection_pool.disconnect(inuse_connections=True)

    async def _check_run(self, connection: Any) -> None:
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        if self._run and _run_in(str(await connection.read_response())) != self._run:
            raise NotConnected("another run of Valkey than the one in which this generation of limits began")

    async def observe(self, name: str) -> tuple[str, bool]:
        """The run that answers now, and whether it knows the generation `name`."""
        pipeline = self._observer.pipeline(transaction=False)
        pipeline.execute_command("INFO", "server")
        pipeline.exists(_mark(name))
        server, known = await pipeline.execute()
        return str(server["run_id"]), bool(known)

    async def begin(self, name: str) -> str:
        """Mark the generation `name`, which nobody else ever does; the run in which it begins."""
        pipeline = self._observer.pipeline(transaction=False)
        pipeline.set(_mark(name), 1)
        pipeline.execute_command("INFO", "server")
        _, server = await pipeline.execute()
        return str(server["run_id"])

    async def forget_others(self, name: str) -> None:
        """Delete what generations other than `name` have left."""
        kept = f"sekisho:{name}:"
        keys: list[str] = []
        async for key in self._observer.scan_iter(match="sekisho:[0-9]*-*:*", count=1_000):
            if not key.startswith(kept):
                keys.append(key)
            if len(keys) >= 1_000:
                await self._observer.unlink(*keys)
                keys.clear()
        if keys:
            await self._observer.unlink(*keys)

    async def reserve(self, mode: Mode, asked: Reservation) -> Any:
        """The answer of `reserve.lua`."""
        return await self._known(mode, _RESERVE, asked.tenant_id, asked.period, asked.arguments)

    async def change(self, mode: Mode, release: Release, how: str) -> None:
        """End a hold, or lower it (`how`: 'end' or 'shrink')."""
        arguments: list[str | int] = [release.request_id, release.tokens, release.micro_yen, how]
        await self._known(mode, _SETTLE, release.tenant_id, release.period, arguments)

    async def look(self, mode: Mode, tenant_id: str, period: str, names: Sequence[str]) -> Sequence[int]:
        """The answer of `look.lua` for levels by name."""
        prefixes = [f"{name} " if name else "" for name in names]
        answer: Sequence[int] = await self._known(mode, _LOOK, tenant_id, period, prefixes)
        return answer

    async def _known(
        self, mode: Mode, script: Script, tenant_id: str, period: str, arguments: Sequence[str | int]
    ) -> Any:
        """The script's answer, after the month was filled if Valkey did not know it."""
        keys = keys_of(mode.name, tenant_id, period)
        for _ in range(FILLS_MAX):
            answer = await self._scripts.run(script, keys, arguments)
            if answer == "lost":
                raise Unknown
            if answer != "cold":
                return answer
            await self._fill(mode, tenant_id, period)
        raise RedisError(f"the month {period} of {tenant_id} is forgotten as soon as it is filled")

    async def _fill(self, mode: Mode, tenant_id: str, period: str) -> None:
        """Fill the sums from the journal; all who ask at the same time wait for one reading."""
        key = (mode.name, tenant_id, period)
        await self._fills.once(key, lambda: self._fill_once(*key))

    async def _fill_once(self, name: str, tenant_id: str, period: str) -> None:
        keys = keys_of(name, tenant_id, period)
        held_ids = await self._scripts.client.hkeys(keys[1])  # before the journal is read: seed.lua says why
        await self._scripts.run(_SEED, keys, await seed_arguments(self._fills, tenant_id, period, held_ids))

    async def entries(self, mode: Mode) -> AsyncIterator[HeldEntry]:
        """Every hold there is, for the sweep."""
        prefix = f"sekisho:{mode.name}:holds:"
        async for key in self._scripts.client.scan_iter(match=f"{prefix}*", count=500):
            tenant_id = key.removeprefix(prefix)
            async for request_id, hold in self._scripts.client.hscan_iter(key, count=500):
                parts = hold.split(":", 5)
                if len(parts) != 6:  # stops no other hold's end
                    _LOG.error("the hold of %s (%s) is not in form: %r", request_id, tenant_id, hold)
                    continue
                _, _, period, instance_id, held_at, names = parts
                yield HeldEntry(request_id, tenant_id, period, instance_id, int(held_at), names.split())

    async def close(self) -> None:
        """Finish what is queued, then close the connections."""
        await self._scripts.close()
        await self._observer.aclose()


def keys_of(name: str, tenant_id: str, period: str) -> list[str]:
    """All keys that a tenant has in the generation `name`, and the generation's mark: as the scripts take them."""
    own = f"sekisho:{name}"
    return [f"{own}:use:{tenant_id}:{period}", f"{own}:holds:{tenant_id}", f"{own}:concurrent:{tenant_id}",
            f"{own}:rate:{tenant_id}", _mark(name)]  # fmt: skip


def _mark(name: str) -> str:
    return f"sekisho:{name}:mark"


def _run_in(info: str) -> str:
    return next((line[7:].strip() for line in info.splitlines() if line.startswith("run_id:")), "")
