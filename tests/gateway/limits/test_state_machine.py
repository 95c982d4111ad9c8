"""Whatever happens in whatever order to holds, rows and stores: nothing is overspent, and in the end the store of
limits, the journal and the ledger say the same.

Requests are reserved, opened, lowered, settled (twice), given up, left behind by a dead process; Valkey forgets
everything; limits turn to the book and back.
"""

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from billing.group_commit import GroupCommit
from billing.journal import Journal
from billing.link import Link
from billing.recovery import finals
from billing.types import OpenRow, Settlement, Usage
from gateway.limits.holds import Hold, Holds, Refusal, Release
from gateway.limits.levels import Limits
from tests.billing.rows import a_settlement
from tests.conftest import Stores
from tests.gateway.limits.asking import PERIOD, Chain, a_row, reserve
from tests.gateway.limits.behind import state_of, turn

EXAMPLES, STEPS = 130, 24
LIMIT = 1_000  # two requests may already be too many
OUTPUT_PRICE = 480
_T = TypeVar("_T")


@dataclass
class Request:
    """A request under way: `most` is what it can still use, in tokens; `row` once it is open."""

    hold: Hold
    most: int
    row: OpenRow | None = None


class World:
    """The stores, and a process on a loop of its own."""

    def __init__(self, stores: Stores) -> None:
        self._runner = asyncio.Runner()
        self.run(self._open(stores))

    async def _open(self, stores: Stores) -> None:
        self.holds = Holds(stores.valkey_url, stores.dsn)
        self.journal = Journal(stores.dsn)
        valkey: Any = Redis.from_url(stores.valkey_url, decode_responses=True)
        valkey.book = Link(stores.dsn)
        self.valkey = valkey

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._runner.run(work)

    def close(self) -> None:
        self.run(self._close())
        self._runner.close()

    async def _close(self) -> None:
        if self.holds.modes.degraded:
            await turn([self.holds], "valkey", self.valkey)
        await self.holds.close()
        await self.journal.close()
        await self.valkey.book.close()
        await self.valkey.aclose()


class Life(RuleBasedStateMachine):
    """One tenant's requests. `world` is set by the test."""

    world: World

    @initialize()
    def begin(self) -> None:
        self.chain = Chain.of(tenant=Limits(tokens_month=LIMIT, micro_yen_month=LIMIT * OUTPUT_PRICE, concurrency=6))
        self.reserved: dict[str, Request] = {}
        self.open: dict[str, Request] = {}
        self.settled: list[tuple[OpenRow, Settlement]] = []
        self.strays: list[int] = []  # tokens of holds whose row is final and which nobody has ended
        self.used = 0

    @rule(tokens=st.sampled_from([1, 300, 600, 1_000]))
    def ask(self, tokens: int) -> None:
        row = a_row(self.chain, held_tokens=tokens, held_micro_yen=tokens * OUTPUT_PRICE)
        try:
            hold = self.run(reserve(self.world.holds, self.chain, tokens, tokens * OUTPUT_PRICE, row.request_id))
        except Refusal:
            # Only what is set aside or used can be in the way: never more than the journal and the holds know.
            held = [one.hold.tokens for one in (*self.reserved.values(), *self.open.values())] + self.strays
            assert self.used + sum(held) + tokens > LIMIT or len(held) >= 6
            return
        self.reserved[row.request_id] = Request(hold, tokens, row)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        """The row becomes durable, and the hold is confirmed before anything is delivered."""
        request = self._take(data, self.reserved)
        assert request.row is not None
        self.run(self._stored(self.world.journal.opens, request.row))
        try:
            request.hold = self.run(self.world.holds.confirm(request.hold))
        except Refusal:
            self._settle(request, Usage(), state="voided", source="none", lines=())
            return
        self.open[request.row.request_id] = request

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.floats(0, 1))
    def shrink(self, data: st.DataObject, share: float) -> None:
        request = self.open[data.draw(st.sampled_from(sorted(self.open)))]
        request.most = int(request.most * share)
        self.run(self._shrunk(request))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.floats(0, 1), released=st.booleans())
    def settle(self, data: st.DataObject, share: float, released: bool) -> None:
        """The end; without its release where the process dies in between."""
        request = self._take(data, self.open)
        self._settle(request, Usage(0, 0, int(request.most * share)), released=released)

    @precondition(lambda self: self.settled)
    @rule(data=st.data())
    def settle_again(self, data: st.DataObject) -> None:
        """A second delivery of a settlement, with another count, by somebody who thought the first one dead."""
        row, first = data.draw(st.sampled_from(self.settled))
        late = a_settlement(row, Usage(0, 0, 900))
        assert not self.run(self._stored(self.world.journal.settlements, late))
        self._release(row, first.usage.total, first.micro_yen)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        request = self._take(data, self.reserved)
        assert request.row is not None
        self._release(request.row, 0, 0)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), seen=st.booleans())
    def die(self, data: st.DataObject, seen: bool) -> None:
        """The process dies: the worker recovers the row from the last checkpoint, or without one."""
        request = self._take(data, self.open)
        self._settle(request, Usage(0, 0, request.most // 2 if seen else 0), state="recovered", source="checkpoint")

    @rule()
    def sweep(self) -> None:
        self.run(self._sweep())
        self.strays.clear()

    @rule(how=st.sampled_from(["valkey", "book", "flush"]))
    def change_stores(self, how: str) -> None:
        if how != "flush" or not self.world.holds.modes.degraded:
            self.run(turn([self.world.holds], how, self.world.valkey))

    @invariant()
    def nothing_is_overspent(self) -> None:
        if not hasattr(self, "chain"):
            return
        assert self.used + sum(request.most for request in self.open.values()) <= LIMIT
        state = self.run(state_of(self.world.valkey, self.chain.tenant_id))
        if state.sums:  # else nobody has asked yet, and the journal will tell
            assert self.open.keys() <= state.holds.keys()
        for amounts in state.sums.values():
            assert min(amounts) >= 0
            assert amounts[0] + amounts[1] <= LIMIT
        for (level, _), amounts in state.sums.items():
            held = [hold.tokens for hold in state.holds.values() if level in hold.names]
            assert amounts[1] == sum(held)
            assert state.running[level] == len(held)

    def teardown(self) -> None:
        if not hasattr(self, "chain"):
            return
        for request in (*self.open.values(),):
            self._settle(request, Usage(0, 0, request.most))
        self.open.clear()
        for request in self.reserved.values():
            assert request.row is not None
            self._release(request.row, 0, 0)
        self.run(self._sweep())
        self.run(self._agree())

    async def _agree(self) -> None:
        """The store of limits, the journal and the ledger, and what this machine has counted."""
        world, tenant_id = self.world, self.chain.tenant_id
        _, standings = await world.holds.look(tenant_id, self.chain.levels, PERIOD)
        money = sum(settlement.micro_yen for _, settlement in self.settled)
        for one in standings:
            assert (one.used_tokens, one.held_tokens, one.running) == (self.used, 0, 0)
            assert (one.used_micro_yen, one.held_micro_yen) == (money, 0)
        rows = await world.journal._open_link.fetch(
            "SELECT coalesce(sum(prompt_tokens + completion_tokens), 0)::bigint AS tokens,"
            " coalesce(sum(micro_yen), 0)::bigint AS micro_yen,"
            " (SELECT coalesce(sum(debit), 0)::bigint FROM ledger_entry WHERE tenant_id = $1) AS debit,"
            " (SELECT coalesce(sum(credit), 0)::bigint FROM ledger_entry WHERE tenant_id = $1) AS credit"
            " FROM journal WHERE tenant_id = $1",
            tenant_id,
        )
        assert dict(rows[0]) == {"tokens": self.used, "micro_yen": money, "debit": money, "credit": money}

    def _settle(self, request: Request, usage: Usage, *, released: bool = True, **changes: Any) -> None:
        assert request.row is not None
        settlement = a_settlement(request.row, usage, **changes)
        assert self.run(self._stored(self.world.journal.settlements, settlement))
        self.settled.append((request.row, settlement))
        self.used += usage.total
        if released:
            self._release(request.row, usage.total, settlement.micro_yen)
        else:
            self.strays.append(request.hold.tokens)

    def _release(self, row: OpenRow, tokens: int, micro_yen: int) -> None:
        self.run(self.world.holds.release(Release(row.request_id, row.tenant_id, row.period, tokens, micro_yen)))

    def _take(self, data: st.DataObject, among: dict[str, Request]) -> Request:
        return among.pop(data.draw(st.sampled_from(sorted(among))))

    async def _stored(self, queue: GroupCommit[_T], item: _T) -> bool:
        return await queue.put(item)

    async def _shrunk(self, request: Request) -> None:
        self.world.holds.shrink(request.hold, request.most, request.most * OUTPUT_PRICE)
        await asyncio.gather(*self.world.holds._shrinking)

    async def _sweep(self) -> None:
        """As the worker: holds whose row is final end with what it says."""
        holds = self.world.holds
        entries = [entry async for entry in holds.entries() if entry.tenant_id == self.chain.tenant_id]
        rows = await finals(self.world.journal._open_link, [entry.request_id for entry in entries])
        for entry in entries:
            row = rows.get(entry.request_id)
            if row is not None and row.final:
                await holds.release(
                    Release(row.request_id, entry.tenant_id, entry.period, row.tokens, row.micro_yen)
                )  # fmt: skip

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.world.run(work)


def test_holds_rows_and_ledger_agree_whatever_happens(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.limits.modes.BACK_S", 3_600)
    # Processes of other tests that ended without a word are waited for.
    monkeypatch.setattr("gateway.limits.modes.OPEN_WAIT_S_MAX", 30.0)
    monkeypatch.setattr("gateway.limits.holds.RELEASE_GRACE_S", 0)
    outcome: list[BaseException] = []

    def live() -> None:
        world = World(stores)
        try:
            machine = type("LifeHere", (Life,), {"world": world})
            checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=checks,
                    derandomize=True, database=None, phases=[Phase.generate],  # on real stores, shrinking takes minutes
                ),
            )  # fmt: skip
        except BaseException as error:
            outcome.append(error)
        finally:
            world.close()

    thread = threading.Thread(target=live)  # the test's own loop is running in this one
    thread.start()
    thread.join()
    if outcome:
        raise outcome[0]
