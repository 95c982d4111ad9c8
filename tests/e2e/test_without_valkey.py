"""Processes that lose Valkey, together or one of them only, and one that never hears of it: none overspends a budget,
and they find back by themselves."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from billing.journal import Journal
from billing.types import Usage
from gateway.faults import Fault
from gateway.limits.holds import Hold, Holds, Refusal
from gateway.limits.levels import Limits
from gateway.limits.modes import BACK_S
from gateway.up.folder import DataFolder
from gateway.up.processes import Child
from gateway.up.stores import Valkey
from tests.billing.rows import a_settlement
from tests.conftest import Stores
from tests.gateway.limits.asking import Chain, a_request_id, a_row, release, reserve


@dataclass
class OwnValkey:
    """A Valkey that a test may kill and start."""

    command: Valkey
    child: Child | None = None

    @property
    def url(self) -> str:
        return self.command.url

    async def start(self) -> None:
        self.child = await Child.start(self.command.command())
        await self.command.until_ready(self.child)

    async def stop(self) -> None:
        if self.child is not None:
            await self.child.stop()
            self.child = None


@pytest_asyncio.fixture
async def own_valkey(tmp_path: Any) -> AsyncIterator[OwnValkey]:
    data = DataFolder.at(tmp_path / "data")
    data.prepare()
    with data.sockets(others_pass=os.geteuid() == 0) as sockets:
        own = OwnValkey(Valkey.of(data, sockets, dict(os.environ)))
        await own.start()
        yield own
        await own.stop()


@pytest_asyncio.fixture
async def journal(stores: Stores) -> AsyncIterator[Journal]:
    journal = Journal(stores.dsn)
    yield journal
    await journal.close()


@asynccontextmanager
async def processes_of(stores: Stores, *urls: str) -> AsyncIterator[list[Holds]]:
    """A process per URL of Valkey. Their common book stands in Valkey again at the end."""
    async with AsyncExitStack() as held:
        processes = []
        for url in urls:
            holds = Holds(url, stores.dsn)
            held.push_async_callback(holds.close)
            processes.append(holds)
        await asyncio.gather(*(ready(holds) for holds in processes))
        yield processes


async def ready(holds: Holds, kind: str = "", within_s: float = 15.0) -> None:
    """Waits until the process admits, in Valkey or in the book where `kind` says so."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            await holds.ready()
            if kind in ("", (await holds.modes.admitting()).kind):
                return
        except Fault:
            pass
        assert time.monotonic() < deadline, f"not {kind or 'admitting'} within {within_s} s: {holds.modes.problem}"
        await asyncio.sleep(0.05)


async def all_ask(processes: list[Holds], chain: Chain, each: int, tokens: int) -> list[Hold]:
    """Every process asks `each` times at once; the holds that were given. Nothing but limits may refuse."""
    asking = (reserve(holds, chain, tokens) for holds in processes for _ in range(each))
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(answer, Hold | Refusal) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Hold)]


async def test_valkey_dies_and_comes_back_and_the_budget_holds_all_the_way(
    stores: Stores, own_valkey: OwnValkey, journal: Journal
) -> None:
    chain = Chain.of(tenant=Limits(tokens_month=1_000))
    async with processes_of(stores, own_valkey.url, own_valkey.url) as processes:
        running, rowless = a_row(chain, held_tokens=300, held_micro_yen=1), a_request_id()
        hold = await reserve(processes[0], chain, 300, 1, running.request_id)
        lost = await reserve(processes[1], chain, 100, 1, rowless)
        await journal.opens.put(running)
        await own_valkey.stop()
        with pytest.raises(Fault) as away:
            await reserve(processes[0], chain, 1)
        assert (away.value.code.name, away.value.retry_after_s) == ("store_unavailable", 1)
        await asyncio.gather(*(ready(holds, "book") for holds in processes))
        assert all(holds.modes.problem is None and holds.modes.degraded for holds in processes)
        assert (await processes[1].confirm(lost)).generation > lost.generation
        given = await all_ask(processes, chain, 10, 100)
        assert len(given) == 6  # 1,000 less the 300 of the row and the 100 that were confirmed
        await journal.settlements.put(a_settlement(running, Usage(0, 0, 50)))
        await release(processes[1], hold, 50)
        await release(processes[0], given[0], 0)
        again = await all_ask(processes, chain, 10, 50)
        assert len(again) == 7  # 250 and 100 came back
        await own_valkey.start()
        await asyncio.gather(*(ready(holds, "valkey") for holds in processes))
        # The journal knows of 50 used; what has no row and was not confirmed is held no longer.
        assert len(await all_ask(processes, chain, 10, 100)) == 9


async def test_one_process_that_cannot_reach_valkey_takes_all_of_them_to_the_book_and_nothing_flaps(
    stores: Stores, tmp_path: Path
) -> None:
    chain, way = Chain.of(tenant=Limits(tokens_month=1_000)), tmp_path / "way.sock"
    way.symlink_to(stores.valkey_url.removeprefix("unix://"))
    async with processes_of(stores, stores.valkey_url, f"unix://{way}") as (seeing, blind):
        held = [await reserve(seeing, chain, 300), await reserve(blind, chain, 300)]
        way.rename(tmp_path / "elsewhere.sock")
        for client in (blind._valkey._observer, blind._valkey._scripts.client):
            await client.connection_pool.disconnect()
        await asyncio.gather(ready(seeing, "book"), ready(blind, "book"))
        generation = (await seeing.modes.admitting()).generation
        confirmed = [await holds.confirm(hold) for holds, hold in zip((seeing, blind), held, strict=True)]
        assert {hold.generation for hold in confirmed} == {generation}
        assert len(await all_ask([seeing, blind], chain, 10, 100)) == 4
        await asyncio.sleep(2 * BACK_S)
        assert (await seeing.modes.admitting()).generation == generation  # Valkey answers one of them, and still
        (tmp_path / "elsewhere.sock").rename(way)
        await asyncio.gather(ready(seeing, "valkey"), ready(blind, "valkey"))


async def test_generation_waits_for_a_process_that_has_not_heard_of_it_and_that_process_delivers_nothing_after(
    stores: Stores,
) -> None:
    chain = Chain.of(tenant=Limits(tokens_month=1_000))
    async with processes_of(stores, stores.valkey_url) as (quick,), processes_of(stores, stores.valkey_url) as (slow,):
        hold = await reserve(slow, chain, 900)
        for task in slow.modes._tasks:  # as if the process had been stopped
            task.cancel()
        await asyncio.gather(*slow.modes._tasks, return_exceptions=True)
        mode = await quick.modes.admitting()
        turned = time.monotonic()
        await quick.modes.turn_to_valkey(mode)
        await quick.modes.beyond(mode.generation)
        while quick.modes.problem is not None:
            if slow.modes.leased:
                assert (
                    await slow.confirm(hold) == hold
                )  # what it delivers now is in the journal before anybody reads it
            await asyncio.sleep(0.05)
            assert time.monotonic() - turned < 15
        assert not slow.modes.leased
        with pytest.raises(Fault) as denied:
            await slow.confirm(hold)
        assert denied.value.code.name == "store_unavailable"
        assert len(await all_ask([quick], chain, 1, 1_000)) == 1


async def test_restarted_valkey_is_not_believed_though_it_has_kept_its_memory(
    stores: Stores, own_valkey: OwnValkey
) -> None:
    chain = Chain.of(tenant=Limits(tokens_month=1_000))
    async with processes_of(stores, own_valkey.url) as (holds,):
        hold = await reserve(holds, chain, 400)
        client: Any = holds._valkey._observer
        await client.save()
        await reserve(holds, chain, 500)  # after the copy was made
        await own_valkey.stop()
        await own_valkey.start()
        await ready(holds)
        await holds.modes.beyond(hold.generation)
        await ready(holds)
        assert (await holds.confirm(hold)).generation > hold.generation
        assert len(await all_ask([holds], chain, 10, 100)) == 6
