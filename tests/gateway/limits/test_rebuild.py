"""What Valkey forgets, the journal knows, at every level; nothing is lost and nothing counted twice on the way."""

import asyncio
from typing import Any

from billing.journal import Journal
from billing.types import Usage
from gateway.limits.holds import Holds, Release
from gateway.limits.levels import Limits
from tests.billing.rows import a_settlement, an_open_row
from tests.gateway.limits.asking import PERIOD, Chain, a_request_id, a_row, forget, refused, release, reserve, sums

KEY = "k" * 12
LEVELS = ("", "licence:lic/g1", "project:alpha", f"key:{KEY}")


async def forget_all(valkey: Any, chain: Chain) -> None:
    await forget(valkey, chain, "holds", "concurrent", "rate")


async def test_lost_memory_is_rebuilt_at_every_level(holds: Holds, journal: Journal, valkey: Any) -> None:
    chain = Chain.of(project=Limits(tokens_month=1_000))
    settled, running = a_row(chain), a_row(chain, held_tokens=300, held_micro_yen=9)
    elsewhere = a_row(chain.changed("project", id="beta").changed("key", id="other"))
    await asyncio.gather(*(journal.opens.put(row) for row in (settled, running, elsewhere)))
    await journal.settlements.put(a_settlement(settled, Usage(prompt=100, cached=0, completion=50)))
    await journal.settlements.put(a_settlement(elsewhere, Usage(prompt=1_000, cached=0, completion=0)))
    assert (await refused(holds, chain, tokens=551)).values["remaining"] == 1_000 - 150 - 300
    yen = 100 * 120 + 50 * 480
    assert await sums(valkey, chain.tenant_id) == {
        "": (1_150, 300, yen + 120_000, 9), "licence:lic/g1": (1_150, 300, yen + 120_000, 9),
        "project:alpha": (150, 300, yen, 9), f"key:{KEY}": (150, 300, yen, 9),
        "project:beta": (1_000, 0, 120_000, 0), "key:other": (1_000, 0, 120_000, 0),
    }  # fmt: skip
    await holds.release(Release(running.request_id, chain.tenant_id, PERIOD, 20, 3))
    assert (await sums(valkey, chain.tenant_id))["project:alpha"] == (170, 0, yen + 3, 0)


async def test_unfinished_rows_count_as_running_at_their_levels(holds: Holds, journal: Journal) -> None:
    chain = Chain.of(project=Limits(concurrency=2))
    await asyncio.gather(*(journal.opens.put(a_row(chain)) for _ in range(2)))
    await journal.opens.put(a_row(chain.changed("project", id="beta")))
    assert (await refused(holds, chain)).rule == "limit:project:concurrency"
    await reserve(holds, chain.changed("project", id="beta"))


async def test_request_without_a_project_is_in_none(holds: Holds, journal: Journal, valkey: Any) -> None:
    chain = Chain.of()
    running, settled = an_open_row(chain.tenant_id), an_open_row(chain.tenant_id)
    await asyncio.gather(journal.opens.put(running), journal.opens.put(settled))
    await journal.settlements.put(a_settlement(settled, Usage(prompt=10, cached=0, completion=0)))
    await reserve(holds, Chain(chain.tenant_id, chain.levels[:2]))
    assert set(await sums(valkey, chain.tenant_id)) == {"", "licence:lic/g1", f"key:{KEY}"}


async def test_limit_on_a_key_that_was_used_before_the_memory_was_lost_counts_that_use(
    holds: Holds, journal: Journal, valkey: Any
) -> None:
    chain = Chain.of()
    row = a_row(chain)
    hold = await reserve(holds, chain, tokens=100, request_id=row.request_id)
    await journal.opens.put(row)
    await journal.settlements.put(a_settlement(row, Usage(prompt=40, cached=0, completion=30)))
    await release(holds, hold, tokens=70)
    await forget_all(valkey, chain)
    await reserve(holds, chain.changed("key", id="other"))  # the tenant's month is known again
    limited = chain.changed("key", limits=Limits(tokens_month=100))
    assert (await refused(holds, limited, tokens=31)).values["remaining"] == 30


async def test_settled_request_whose_hold_is_still_there_is_counted_once(
    holds: Holds, journal: Journal, valkey: Any
) -> None:
    chain = Chain.of()
    row = a_row(chain)
    hold = await reserve(holds, chain, tokens=100, request_id=row.request_id)
    await journal.opens.put(row)
    await journal.settlements.put(a_settlement(row, Usage(prompt=40, cached=0, completion=30)))
    yen = 40 * 120 + 30 * 480
    await forget(valkey, chain)
    await reserve(holds, chain, tokens=5, micro_yen=0)
    await release(holds, hold, tokens=70, micro_yen=yen)
    assert await sums(valkey, chain.tenant_id) == dict.fromkeys(LEVELS, (70, 5, yen, 0))


async def test_release_of_a_forgotten_month_books_once_at_every_level(
    holds: Holds, journal: Journal, valkey: Any
) -> None:
    chain = Chain.of()
    with_row, without_row = a_row(chain), a_request_id()
    of_row = await reserve(holds, chain, tokens=100, micro_yen=0, request_id=with_row.request_id)
    of_none = await reserve(holds, chain, tokens=9, micro_yen=0, request_id=without_row)
    await journal.opens.put(with_row)
    await journal.settlements.put(a_settlement(with_row, Usage(prompt=40, cached=0, completion=0)))
    await forget(valkey, chain, "concurrent")
    await release(holds, of_row, tokens=40, micro_yen=4_800)
    assert await sums(valkey, chain.tenant_id) == dict.fromkeys(LEVELS, (40, 9, 4_800, 0))
    assert (await refused(holds, chain.changed("key", limits=Limits(concurrency=1)))).rule == "limit:key:concurrency"
    await release(holds, of_none)
    assert await sums(valkey, chain.tenant_id) == dict.fromkeys(LEVELS, (40, 0, 4_800, 0))


async def test_processes_that_fill_at_the_same_moment_fill_once(
    processes: list[Holds], journal: Journal, valkey: Any
) -> None:
    chain = Chain.of()
    row = a_row(chain)
    await journal.opens.put(row)
    await journal.settlements.put(a_settlement(row, Usage(prompt=10, cached=0, completion=0)))
    await asyncio.gather(*(reserve(holds, chain, tokens=1, micro_yen=0) for holds in processes for _ in range(20)))
    assert await sums(valkey, chain.tenant_id) == dict.fromkeys(LEVELS, (10, 60, 1_200, 0))
