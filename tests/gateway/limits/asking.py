"""Requests as the tests of the limits make them, and what Valkey keeps of them."""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest
import uuid_utils

from billing.types import OpenRow
from gateway.faults import Fault
from gateway.limits.holds import Hold, Holds, Release
from gateway.limits.levels import UNBOUNDED, LimitLevel, Limits
from tests.billing.rows import an_open_row

PERIOD = "202611"
QUANTITIES = ("used_tokens", "held_tokens", "used_micro_yen", "held_micro_yen")


@dataclass(frozen=True)
class Chain:
    """The levels of one request; a tenant that no other test knows."""

    tenant_id: str
    levels: tuple[LimitLevel, ...]

    @classmethod
    def of(cls, *, tenant: Limits = UNBOUNDED, licence: Limits = UNBOUNDED, project: Limits = UNBOUNDED,
           key: Limits = UNBOUNDED) -> "Chain":  # fmt: skip
        tenant_id = f"t-{uuid4().hex[:12]}"
        return cls(tenant_id, (
            LimitLevel("tenant", tenant_id, tenant), LimitLevel("licence", "lic/g1", licence),
            LimitLevel("project", "alpha", project), LimitLevel("key", "k" * 12, key),
        ))  # fmt: skip

    def changed(self, kind: str, **changes: Any) -> "Chain":
        """The same but for `id` or `limits` of one level."""
        changed = (replace(level, **changes) if level.kind == kind else level for level in self.levels)
        return replace(self, levels=tuple(changed))


async def within_one_minute() -> None:
    """Waits for the next minute when this one is nearly over: what follows is counted in one."""
    left_s = 60 - time.time() % 60
    if left_s < 2:
        await asyncio.sleep(left_s)


def a_request_id() -> str:
    return str(uuid_utils.uuid7())


async def reserve(holds: Holds, chain: Chain, tokens: int = 1, micro_yen: int = 1, request_id: str = "") -> Hold:
    return await holds.reserve(
        request_id or a_request_id(), chain.tenant_id, chain.levels, PERIOD, tokens, micro_yen, "gateway-test",
        licence="lic@3", zone="Asia/Tokyo",
    )  # fmt: skip


async def refused(holds: Holds, chain: Chain, tokens: int = 1, micro_yen: int = 1) -> Fault:
    with pytest.raises(Fault) as caught:
        await reserve(holds, chain, tokens, micro_yen)
    return caught.value


async def release(holds: Holds, hold: Hold, tokens: int = 0, micro_yen: int = 0) -> None:
    await holds.release(Release(hold.request_id, hold.tenant_id, hold.period, tokens, micro_yen))


async def key_of(valkey: Any, part: str, tenant_id: str, period: str = "") -> str:
    """A key of the generation in force."""
    row = (await valkey.book.fetch("SELECT name FROM limits_mode"))[0]
    return f"sekisho:{row['name']}:{part}:{tenant_id}" + (f":{period}" if period else "")


async def sums(valkey: Any, tenant_id: str, period: str = PERIOD) -> dict[str, tuple[int, ...]]:
    """Used and held tokens, used and held micro-yen of every level that has any; the tenant's is ''."""
    found: dict[str, dict[str, int]] = {}
    for field, value in (await valkey.hgetall(await key_of(valkey, "use", tenant_id, period))).items():
        level, _, quantity = field.rpartition(" ")
        found.setdefault(level, {})[quantity] = int(value)
    return {
        level: tuple(of.get(quantity, 0) for quantity in QUANTITIES) for level, of in found.items() if any(of.values())
    }


def a_row(chain: Chain, **changes: Any) -> OpenRow:
    """The row of a request at the levels of `chain`."""
    ids = {level.kind: level.id for level in chain.levels}
    return an_open_row(
        chain.tenant_id, rule_id=ids["licence"], project_id=ids["project"], key_id=ids["key"], **changes
    )  # fmt: skip


async def forget(valkey: Any, chain: Chain, *parts: str) -> None:
    """Valkey loses the month's sums, and of the tenant what `parts` names."""
    names = [await key_of(valkey, part, chain.tenant_id) for part in parts]
    await valkey.delete(await key_of(valkey, "use", chain.tenant_id, PERIOD), *names)
