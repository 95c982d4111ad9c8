"""Limits on a real Valkey: atomic, idempotent, rebuilt from the journal."""

import asyncio
from typing import Any

import pytest
import uuid_utils

from billing.journal import Journal
from billing.types import Usage
from gateway.faults import Fault
from gateway.limits.holds import Hold, Holds, Release, period_of
from gateway.limits.levels import LimitLevel
from gateway.tenancy.snapshot import Tenant
from tests.billing.rows import a_settlement, an_open_row
from tests.conftest import Stores, a_tenant
from tests.gateway.limits.asking import key_of

PERIOD = "202611"


async def reserve(holds: Holds, tenant: Tenant, tokens: int, request_id: str | None = None, yen: int = 1) -> Hold:
    levels = (LimitLevel("tenant", tenant.tenant_id, tenant.limits),)
    return await holds.reserve(
        request_id or str(uuid_utils.uuid7()), tenant.tenant_id, levels, PERIOD, tokens, yen, "gateway-test"
    )


async def refused(holds: Holds, tenant: Tenant, tokens: int, yen: int = 1) -> Fault:
    with pytest.raises(Fault) as caught:
        await reserve(holds, tenant, tokens, yen=yen)
    return caught.value


def the_release(hold: Hold, tokens: int, micro_yen: int = 0) -> Release:
    return Release(hold.request_id, hold.tenant_id, hold.period, tokens, micro_yen)


async def counters(valkey: Any, tenant: Tenant) -> dict[str, int]:
    stored = await valkey.hgetall(await key_of(valkey, "use", tenant.tenant_id, PERIOD))
    return {name: int(value) for name, value in stored.items() if " " not in name}


async def test_exactly_the_limit_fits_and_one_more_does_not(holds: Holds) -> None:
    tenant = a_tenant(tokens=100)
    hold = await reserve(holds, tenant, 100)
    assert hold.tokens_left is not None
    assert hold.tokens_left.remaining == 0
    fault = await refused(holds, tenant, 1)
    assert (fault.code.name, fault.rule) == ("insufficient_quota", "limit:tenant:tokens_month")
    await holds.release(the_release(hold, tokens=40))
    await reserve(holds, tenant, 60)
    assert (await refused(holds, tenant, 1)).values["remaining"] == 0


async def test_free_model_still_uses_up_the_token_budget(holds: Holds, valkey: Any) -> None:
    tenant = a_tenant(tokens=100)
    hold = await reserve(holds, tenant, 80, yen=0)
    await holds.release(the_release(hold, tokens=50))
    assert (await counters(valkey, tenant))["used_tokens"] == 50
    assert (await refused(holds, tenant, 51, yen=0)).values["remaining"] == 50


async def test_yen_limit_is_named(holds: Holds) -> None:
    tenant = a_tenant(micro_yen=1_000)
    assert (await refused(holds, tenant, 1, yen=1_001)).rule == "limit:tenant:micro_yen_month"


async def test_same_request_holds_once_and_settles_once(holds: Holds, valkey: Any) -> None:
    tenant = a_tenant(tokens=100)
    request_id = str(uuid_utils.uuid7())
    for _ in range(3):
        hold = await reserve(holds, tenant, 80, request_id)
    assert (await counters(valkey, tenant))["held_tokens"] == 80
    for _ in range(3):
        await holds.release(the_release(hold, tokens=30, micro_yen=5))
    assert await counters(valkey, tenant) == {
        "used_tokens": 30, "held_tokens": 0, "used_micro_yen": 5, "held_micro_yen": 0,
    }  # fmt: skip


async def test_500_concurrent_holds_never_exceed_the_budget(holds: Holds, valkey: Any) -> None:
    tenant = a_tenant(tokens=1_000)
    results = await asyncio.gather(*(reserve(holds, tenant, 7) for _ in range(500)), return_exceptions=True)
    granted = [result for result in results if isinstance(result, Hold)]
    assert len(granted) == 1_000 // 7
    assert all(isinstance(result, Hold | Fault) for result in results)
    await asyncio.gather(*(holds.release(the_release(hold, tokens=7)) for hold in granted))
    assert (await counters(valkey, tenant)) == {
        "used_tokens": 7 * len(granted), "held_tokens": 0, "used_micro_yen": 0, "held_micro_yen": 0,
    }  # fmt: skip


async def test_concurrency_and_rate_are_refused_with_a_time_to_come_back(holds: Holds) -> None:
    crowded = a_tenant(concurrency=2)
    for _ in range(2):
        await reserve(holds, crowded, 1)
    fault = await refused(holds, crowded, 1)
    assert (fault.code.name, fault.rule, fault.retry_after_s) == ("rate_limit_exceeded", "limit:tenant:concurrency", 1)
    busy = a_tenant(rpm=3)
    for _ in range(3):
        hold = await reserve(holds, busy, 1)
        await holds.release(the_release(hold, 1))
    fault = await refused(holds, busy, 1)
    assert fault.rule == "limit:tenant:rpm"
    assert fault.retry_after_s is not None
    assert 1 <= fault.retry_after_s <= 60


async def test_client_that_asks_again_at_once_is_not_refused_for_its_own_last_hold(holds: Holds) -> None:
    tenant = a_tenant(concurrency=1)
    ending = []
    for _ in range(50):
        hold = await reserve(holds, tenant, 1)
        ending.append(asyncio.create_task(holds.release(the_release(hold, 1))))  # as the answer leaves
    await asyncio.gather(*ending)


async def test_lost_memory_is_rebuilt_from_the_journal(holds: Holds, stores: Stores, valkey: Any) -> None:
    tenant = a_tenant(tokens=1_000)
    journal = Journal(stores.dsn)
    settled, running = an_open_row(tenant.tenant_id), an_open_row(tenant.tenant_id, held_tokens=300, held_micro_yen=9)
    await asyncio.gather(journal.opens.put(settled), journal.opens.put(running))
    await journal.settlements.put(a_settlement(settled, Usage(prompt=100, cached=0, completion=50)))
    await reserve(holds, tenant, 1)
    after = await counters(valkey, tenant)
    assert (after["used_tokens"], after["held_tokens"]) == (150, 301)
    assert after["used_micro_yen"] == 100 * 120 + 50 * 480
    assert (await refused(holds, tenant, 550)).values["remaining"] == 1_000 - 150 - 301
    await holds.release(Release(running.request_id, tenant.tenant_id, PERIOD, 20, 0))
    assert (await counters(valkey, tenant))["used_tokens"] == 170
    await journal.close()


async def test_valkey_that_forgot_its_scripts_is_told_them_again(holds: Holds, valkey: Any) -> None:
    tenant = a_tenant(tokens=100)
    await reserve(holds, tenant, 1)
    await valkey.script_flush()
    results = await asyncio.gather(*(reserve(holds, tenant, 1) for _ in range(20)))
    assert len(results) == 20


async def test_period_is_the_month_of_the_tenants_zone() -> None:
    last_second_of_november_in_tokyo = 1_796_050_799_000_000
    assert period_of(last_second_of_november_in_tokyo, "Asia/Tokyo") == "202611"
    assert period_of(last_second_of_november_in_tokyo + 1_000_000, "Asia/Tokyo") == "202612"
    assert period_of(last_second_of_november_in_tokyo + 1_000_000, "UTC") == "202611"
