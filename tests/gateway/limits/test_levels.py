"""A request must fit into all of its levels at once; the one that does not let it through is named."""

import asyncio
import time
from typing import Any

import pytest

from gateway.limits.headroom import Headroom, least, ratelimit_headers
from gateway.limits.holds import Holds
from gateway.limits.levels import Limits
from gateway.limits.period import end_of, period_of
from tests.gateway.limits.asking import Chain, key_of, refused, release, reserve, sums, within_one_minute

KINDS = ("tenant", "licence", "project", "key")
LIMITS = ("tokens_month", "micro_yen_month", "concurrency", "rpm", "tpm")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", LIMITS)
async def test_every_limit_of_every_level_lets_exactly_its_number_through_and_is_named(
    holds: Holds, kind: str, limit: str
) -> None:
    chain = Chain.of(**{kind: Limits(**{limit: 3})})
    await within_one_minute()
    for _ in range(3):
        await reserve(holds, chain)
    fault = await refused(holds, chain)
    assert fault.rule == f"limit:{kind}:{limit}"
    assert fault.licence == ("lic@3" if kind == "licence" else None)
    assert fault.code.name == ("insufficient_quota" if limit.endswith("month") else "rate_limit_exceeded")
    name = {"tenant": "tenant", "licence": "licence lic/g1", "project": "project alpha", "key": f"key {'k' * 12}"}
    for language in ("en", "ja"):
        assert f"{name[kind]} {limit}" in fault.text(language)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", LIMITS)
async def test_refused_at_one_level_holds_nothing_at_any(holds: Holds, valkey: Any, kind: str, limit: str) -> None:
    chain = Chain.of(**{kind: Limits(**{limit: 0})})
    await refused(holds, chain)
    assert await sums(valkey, chain.tenant_id) == {}
    for key in ("holds", "concurrent", "rate"):
        assert await valkey.exists(await key_of(valkey, key, chain.tenant_id)) == 0


async def test_what_no_waiting_cures_is_named_before_what_does_and_the_narrowest_level_first(holds: Holds) -> None:
    nothing = Limits(tokens_month=0, micro_yen_month=0, rpm=0, concurrency=0, tpm=0)
    chain = Chain.of(tenant=nothing, licence=nothing, project=nothing, key=nothing)
    named = []
    order = ("tokens_month", "micro_yen_month", "tpm", "concurrency", "rpm")  # of tpm not even a whole minute suffices
    for limit in order:
        for kind in reversed(KINDS):
            named.append((await refused(holds, chain)).rule)
            level = next(level for level in chain.levels if level.kind == kind)
            left = {name: getattr(level.limits, name) for name in LIMITS if name != limit}
            chain = chain.changed(kind, limits=Limits(**left))
    assert named == [f"limit:{kind}:{limit}" for limit in order for kind in reversed(KINDS)]
    await reserve(holds, chain)


async def test_hold_ends_at_every_level_once(holds: Holds, valkey: Any) -> None:
    chain = Chain.of()
    hold = await reserve(holds, chain, tokens=80, micro_yen=900)
    for _ in range(2):
        assert await reserve(holds, chain, 80, 900, hold.request_id) == hold
    levels = ("", "licence:lic/g1", "project:alpha", f"key:{'k' * 12}")
    assert await sums(valkey, chain.tenant_id) == dict.fromkeys(levels, (0, 80, 0, 900))
    for _ in range(3):
        await release(holds, hold, tokens=30, micro_yen=500)
    assert await sums(valkey, chain.tenant_id) == dict.fromkeys(levels, (30, 0, 500, 0))
    assert await valkey.exists(*[await key_of(valkey, part, chain.tenant_id) for part in ("holds", "concurrent")]) == 0


async def test_limit_set_on_a_key_in_the_middle_of_the_month_counts_what_it_used_before(holds: Holds) -> None:
    chain = Chain.of(tenant=Limits(tokens_month=1_000))
    await release(holds, await reserve(holds, chain, tokens=90), tokens=70)
    running = await reserve(holds, chain, tokens=20)
    limited = chain.changed("key", limits=Limits(tokens_month=100, concurrency=1))
    assert (await refused(holds, limited, tokens=11)).rule == "limit:key:tokens_month"
    assert (await refused(holds, limited, tokens=10)).rule == "limit:key:concurrency"
    await release(holds, running, tokens=15)
    hold = await reserve(holds, limited, tokens=15)
    assert hold.tokens_left is not None
    assert hold.tokens_left.remaining == 0


async def test_a_limit_taken_away_for_a_while_misses_nothing(holds: Holds) -> None:
    limited = Chain.of(project=Limits(tokens_month=100))
    open_to_all = limited.changed("project", limits=Limits())
    await release(holds, await reserve(holds, limited, tokens=40), tokens=40)
    await release(holds, await reserve(holds, open_to_all, tokens=50), tokens=50)
    assert (await refused(holds, limited, tokens=11)).values["remaining"] == 10


async def test_concurrency_of_a_level_counts_its_own_holds_whatever_their_month(holds: Holds) -> None:
    chain = Chain.of(project=Limits(concurrency=2))
    other = chain.changed("project", id="alpha2")
    await reserve(holds, other)
    last_month = await holds.reserve(
        "0199a5c0-0000-7000-8000-000000000001", chain.tenant_id, chain.levels, "202610", 1, 1, "gateway-test"
    )
    await reserve(holds, chain)
    assert (await refused(holds, chain)).rule == "limit:project:concurrency"
    await release(holds, last_month)
    await reserve(holds, chain)
    assert (await refused(holds, chain)).rule == "limit:project:concurrency"
    await reserve(holds, other)


async def test_minute_that_is_over_counts_no_more(holds: Holds, valkey: Any) -> None:
    chain = Chain.of(key=Limits(rpm=2))
    await within_one_minute()
    for _ in range(2):
        await reserve(holds, chain)
    assert (await refused(holds, chain)).rule == "limit:key:rpm"
    await valkey.hincrby(await key_of(valkey, "rate", chain.tenant_id), "minute", -1)  # as if they were a minute old
    await reserve(holds, chain.changed("key", id="other"))
    hold = await reserve(holds, chain)
    assert hold.requests_left is not None
    assert hold.requests_left.remaining == 1


async def test_tightest_level_is_told_for_requests_and_for_tokens(holds: Holds) -> None:
    chain = Chain.of(
        tenant=Limits(tokens_month=1_000, rpm=5), licence=Limits(rpm=9), project=Limits(tokens_month=600),
        key=Limits(tokens_month=700, rpm=5),
    )  # fmt: skip
    before = time.time()
    hold = await reserve(holds, chain, tokens=100)
    assert hold.requests_left is not None
    assert hold.tokens_left is not None
    assert (hold.requests_left.kind, hold.requests_left.limit, hold.requests_left.remaining) == ("key", 5, 4)
    assert (hold.tokens_left.kind, hold.tokens_left.limit, hold.tokens_left.remaining) == ("project", 600, 500)
    assert 1 <= hold.requests_left.reset_s <= 60
    assert hold.tokens_left.reset_s == pytest.approx(max(0, end_of("202611", "Asia/Tokyo") - before), abs=2)


async def test_no_level_that_limits_no_headroom(holds: Holds) -> None:
    hold = await reserve(holds, Chain.of(key=Limits(concurrency=1, micro_yen_month=10)))
    assert (hold.requests_left, hold.tokens_left) == (None, None)
    assert ratelimit_headers(None, None) == {}


async def test_refusal_carries_the_headroom_of_the_level_that_refuses(holds: Holds) -> None:
    chain = Chain.of(tenant=Limits(tokens_month=10, rpm=60), key=Limits(tokens_month=50, rpm=2))
    headers = (await refused(holds, chain, tokens=51)).headers
    assert (headers["x-ratelimit-scope-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("key", "50")
    assert (headers["x-ratelimit-scope-requests"], headers["x-ratelimit-limit-requests"]) == ("key", "2")
    await within_one_minute()
    for _ in range(2):
        await reserve(holds, chain)
    fault = await refused(holds, chain)
    assert (fault.rule, fault.headers["x-ratelimit-remaining-requests"]) == ("limit:key:rpm", "0")
    assert fault.headers["x-ratelimit-reset-requests"] == f"{fault.retry_after_s}s"
    assert fault.headers["x-ratelimit-scope-tokens"] == "tenant"


async def test_limit_lowered_below_what_is_used_leaves_nothing_and_not_less(holds: Holds) -> None:
    chain = Chain.of(project=Limits(tokens_month=100))
    await reserve(holds, chain, tokens=90)
    lowered = chain.changed("project", limits=Limits(tokens_month=50))
    fault = await refused(holds, lowered)
    assert (fault.values["remaining"], fault.headers["x-ratelimit-remaining-tokens"]) == (0, "0")


async def test_ids_that_begin_alike_are_strangers(holds: Holds) -> None:
    chain = Chain.of(licence=Limits(tokens_month=10, rpm=1, concurrency=1))
    await reserve(holds, chain.changed("licence", id="lic/g1"), tokens=10)
    for other in ("lic/g", "lic/g11", "lic/g1.x", "lic/g1:x", "lic/g1!"):
        await reserve(holds, chain.changed("licence", id=other), tokens=10)
        assert (await refused(holds, chain.changed("licence", id=other))).rule == "limit:licence:tokens_month"


async def test_tenants_are_strangers_though_their_projects_have_one_name(holds: Holds) -> None:
    one, other = Chain.of(project=Limits(tokens_month=10)), Chain.of(project=Limits(tokens_month=10))
    await asyncio.gather(reserve(holds, one, tokens=10), reserve(holds, other, tokens=10))
    assert (await refused(holds, one)).rule == (await refused(holds, other)).rule == "limit:project:tokens_month"


def test_least_headroom_binds_and_of_equals_the_narrowest() -> None:
    tenant, project, key = Headroom("tenant", 10, 3, 1), Headroom("project", 10, 3, 1), Headroom("key", 10, 4, 1)
    assert least([tenant, None, project, key]) is project
    assert least([None]) is None


def test_headers_name_limit_rest_reset_and_level() -> None:
    assert ratelimit_headers(Headroom("key", 60, 59, 12), Headroom("project", 1_000, 7, 86_400)) == {
        "x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "12s", "x-ratelimit-scope-requests": "key",
        "x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "7",
        "x-ratelimit-reset-tokens": "86400s", "x-ratelimit-scope-tokens": "project",
    }  # fmt: skip


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"])
def test_month_ends_where_the_next_begins_in_the_tenants_zone(zone: str) -> None:
    for period, following in (("202602", "202603"), ("202611", "202612"), ("202612", "202701")):
        end = end_of(period, zone)
        assert period_of(end * 1_000_000 - 1, zone) == period
        assert period_of(end * 1_000_000, zone) == following
