"""Valkey forgets a month in the middle of its traffic: in the end every level has used what the journal says."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from billing.journal import Journal
from billing.recovery import finals
from billing.types import OpenRow, Usage
from gateway.limits.holds import Holds, Release
from tests.billing.rows import a_settlement
from tests.gateway.limits.asking import Chain, a_row, forget, key_of, reserve, sums

REQUESTS = 60
SEEDS = range(12)
IDS = (("licence", ("lic/g1", "lic/g2")), ("project", ("alpha", "beta")), ("key", ("k1", "k2", "k3")))


@dataclass
class Traffic:
    """Requests of one tenant, served by any of three processes."""

    processes: Sequence[Holds]
    journal: Journal
    dice: random.Random
    base: Chain
    settled: int = 0
    awaited: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(self) -> OpenRow:
        """A request at some levels of the tenant; its row is in the journal."""
        chain = self.base
        for kind, ids in IDS:
            chain = chain.changed(kind, id=self.dice.choice(ids))
        row = a_row(chain, held_tokens=100, held_micro_yen=50_000)
        await reserve(self.dice.choice(self.processes), chain, 100, 50_000, row.request_id)
        await self.journal.opens.put(row)
        return row

    async def end(self, row: OpenRow) -> None:
        """Settled, then released."""
        usage = Usage(prompt=self.dice.randint(1, 60), cached=0, completion=self.dice.randint(0, 40))
        settlement = a_settlement(row, usage)
        await self.journal.settlements.put(settlement)
        self.settled += 1
        if self.settled == self.awaited:
            self.reached.set()
        release = Release(row.request_id, row.tenant_id, row.period, usage.total, settlement.micro_yen)
        await self.dice.choice(self.processes).release(release)

    async def whole(self) -> None:
        await self.end(await self.begin())

    async def begun_and_given_up(self) -> None:
        """Reserved, then refused before it had a row."""
        row = a_row(self.base)
        await reserve(self.dice.choice(self.processes), self.base, 7, 7, row.request_id)
        await self.dice.choice(self.processes).release(Release(row.request_id, row.tenant_id, row.period, 0, 0))

    async def sweep(self) -> None:
        """As the worker does: holds whose row is final end with what the row says."""
        holds = self.processes[0]
        entries = [entry async for entry in holds.entries() if entry.tenant_id == self.base.tenant_id]
        rows = await finals(self.journal._open_link, [entry.request_id for entry in entries])
        for entry in entries:
            row = rows[entry.request_id]
            assert row.final
            await holds.release(Release(row.request_id, entry.tenant_id, entry.period, row.tokens, row.micro_yen))

    async def in_the_journal(self) -> dict[str, tuple[int, ...]]:
        """What the journal's rows add up to, by level, as `sums` gives it."""
        used: Counter[tuple[str, str]] = Counter()
        for row in await self.journal._open_link.fetch(
            "SELECT * FROM journal WHERE tenant_id = $1", self.base.tenant_id
        ):
            for level in ("", f"licence:{row['rule_id']}", f"project:{row['project_id']}", f"key:{row['key_id']}"):
                used[level, "tokens"] += row["prompt_tokens"] + row["completion_tokens"]
                used[level, "micro_yen"] += row["micro_yen"]
        return {level: (used[level, "tokens"], 0, used[level, "micro_yen"], 0) for level, _ in used}


@pytest.mark.parametrize("seed", SEEDS)
async def test_sums_lost_amid_the_traffic_come_back_exactly(
    processes: list[Holds], journal: Journal, valkey: Any, seed: int
) -> None:
    dice = random.Random(seed)
    traffic = Traffic(processes, journal, dice, Chain.of(), awaited=dice.randint(1, REQUESTS))

    async def lose() -> None:
        await traffic.reached.wait()
        await forget(valkey, traffic.base, *(["concurrent"] if seed % 2 else []))

    requests = [traffic.whole() for _ in range(REQUESTS)] + [traffic.begun_and_given_up() for _ in range(10)]
    dice.shuffle(requests)
    await asyncio.gather(lose(), *requests)
    await traffic.whole()
    assert await sums(valkey, traffic.base.tenant_id) == await traffic.in_the_journal()
    left = [await key_of(valkey, part, traffic.base.tenant_id) for part in ("holds", "concurrent")]
    assert await valkey.exists(*left) == 0


@pytest.mark.parametrize("seed", SEEDS)
async def test_memory_lost_amid_the_traffic_comes_back_from_the_journal(
    processes: list[Holds], journal: Journal, valkey: Any, seed: int
) -> None:
    traffic = Traffic(processes, journal, random.Random(seed), Chain.of())
    running = await asyncio.gather(*(traffic.begin() for _ in range(REQUESTS)))
    await asyncio.gather(*(traffic.end(row) for row in running[::2]))
    await forget(valkey, traffic.base, "holds", "concurrent", "rate")
    rest = [traffic.end(row) for row in running[1::2]]
    await asyncio.gather(*rest, *(traffic.whole() for _ in range(REQUESTS // 2)))
    await traffic.sweep()
    assert await sums(valkey, traffic.base.tenant_id) == await traffic.in_the_journal()
