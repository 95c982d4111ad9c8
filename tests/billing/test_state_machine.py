"""Whatever happens in whatever order to a tenant's rows: journal, ledger, audit records and outbox say what a plain
model says, after each step. Rows are opened (twice), sent, marked, settled (twice, two at once, beside one that the
database refuses), recovered, voided; months are closed, also meanwhile; rows are tampered with."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
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

from billing.group_commit import GroupCommit
from billing.invoices.period import following, month_of
from billing.invoices.service import close
from billing.invoices.types import Invoice
from billing.journal import Journal, Mark
from billing.rating import rate
from billing.recovery import unfinished
from billing.types import Settlement, Usage
from tests.billing.books import Books, us
from tests.billing.journal_model import RANK, Kept, Model
from tests.billing.rows import CARD, NOW, a_settlement, an_open_row
from tests.conftest import Stores

EXAMPLES, STEPS = 95, 25
ROWS_MAX, MONTHS_MAX = 8, 3
FIRST_MONTH, ZONE = "2026-11", "Asia/Tokyo"
EARLIEST = us("2026-11-01T00:00+09:00")
DAY = 86_400_000_000
_T = TypeVar("_T")

USAGES = st.builds(
    lambda prompt, cached, completion, reasoning, media: Usage(
        prompt, cached * prompt // 4, completion, reasoning * completion // 4, media * prompt // 8, media * prompt // 8
    ),
    st.integers(0, 3_000), st.integers(0, 4), st.integers(0, 3_000), st.integers(0, 4), st.integers(0, 4),
)  # fmt: skip

# Only what this tenant wrote since the example began: `$3` and `$4` spare a look at everybody's rows.
_LOOK = """
WITH asked AS (SELECT unnest($1::text[]::uuid[]) AS request_id)
SELECT j.request_id::text AS request_id, j.state, j.attempt, j.held_tokens, j.micro_yen, j.usage_source, j.outcome,
  ARRAY[j.prompt_tokens, j.cached_tokens, j.completion_tokens, j.reasoning_tokens, j.image_tokens, j.audio_tokens]
    AS usage,
  (extract(epoch FROM j.booked_at) * 1000000)::bigint AS booked_at, row_to_json(j)::text AS whole,
  (SELECT ARRAY[p.attempt, p.prompt_tokens, p.cached_tokens, p.completion_tokens, p.reasoning_tokens, p.image_tokens,
     p.audio_tokens] FROM journal_progress p WHERE p.request_id = j.request_id) AS checkpoint,
  l.debit, l.credit, l.least, l.lines, l.moments,
  (SELECT count(*) FROM audit_pending p WHERE p.id > $3 AND p.tenant_id = $2 AND p.request_id = j.request_id) AS audits,
  (SELECT count(*) FROM outbox o WHERE o.id > $4 AND o.tenant_id = $2 AND o.request_id = j.request_id
     AND o.kind = 'usage') AS told
FROM asked JOIN journal j USING (request_id) LEFT JOIN LATERAL (
  SELECT coalesce(sum(debit), 0)::bigint AS debit, coalesce(sum(credit), 0)::bigint AS credit, count(*) AS lines,
    coalesce(min(least(debit, credit, quantity, unit_price)), 0) AS least,
    coalesce(array_agg(DISTINCT (extract(epoch FROM e.booked_at) * 1000000)::bigint), '{}') AS moments
  FROM ledger_entry e WHERE e.request_id = j.request_id AND e.tenant_id = $2) l ON true
ORDER BY 1
"""

TAMPERING = (
    "UPDATE journal SET micro_yen = micro_yen + 1 WHERE request_id = $1::text::uuid",
    "UPDATE journal SET state = 'open', settled_at = NULL WHERE request_id = $1::text::uuid",
    "UPDATE journal SET booked_at = booked_at - interval '1 month' WHERE request_id = $1::text::uuid",
    "DELETE FROM journal WHERE request_id = $1::text::uuid",
    "UPDATE ledger_entry SET debit = 2 * debit, credit = 2 * credit WHERE request_id = $1::text::uuid",
    "DELETE FROM ledger_entry WHERE request_id = $1::text::uuid",
    "UPDATE audit_pending SET record = '{}' WHERE request_id = $1::text::uuid",
)
TURNING_BACK = (
    "UPDATE journal SET state = 'open' WHERE request_id = $1::text::uuid",
    "UPDATE journal SET tenant_id = 'another' WHERE request_id = $1::text::uuid",
    "DELETE FROM journal WHERE request_id = $1::text::uuid",
)


class World:
    """The journal of a process, on a loop of its own, and a connection with each role."""

    def __init__(self, stores: Stores) -> None:
        self._runner = asyncio.Runner()
        self.steps = 0
        self.run(self._open(stores))

    async def _open(self, stores: Stores) -> None:
        self.journal = Journal(stores.dsn)
        # The one statement that is asked thousands of times need not be planned each time.
        plans = {"plan_cache_mode": "force_generic_plan"}
        self.owner: Any = await asyncpg.connect(stores.dsn, server_settings=plans)
        self.app: Any = await asyncpg.connect(stores.dsn, server_settings={"role": "sekisho_app"})
        self.card = await Books(self.owner).card(CARD.model)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._runner.run(work)

    def close(self) -> None:
        self.run(self._close())
        self._runner.close()

    async def _close(self) -> None:
        await self.journal.close()
        await self.owner.close()
        await self.app.close()


class Life(RuleBasedStateMachine):
    """One tenant's rows. `world` is set by the test."""

    world: World

    @initialize()
    def begin(self) -> None:
        self.model, self.period = Model(), FIRST_MONTH
        self.before: dict[str, Any] = {}
        self.invoices: list[tuple[int, int, int]] = []
        self.instance_id = f"gateway-{uuid4().hex[:12]}"
        self.world.run(self._begin())

    async def _begin(self) -> None:
        self.tenant_id = (await Books(self.world.owner).open()).tenant_id
        self.since = await self.world.owner.fetchrow(
            "SELECT (SELECT coalesce(max(id), 0) FROM audit_pending) AS audit,"
            " (SELECT coalesce(max(id), 0) FROM outbox) AS outbox"
        )

    @precondition(lambda self: len(self.model.kept) < ROWS_MAX)
    @rule()
    def open(self) -> None:
        row = an_open_row(
            self.tenant_id, instance_id=self.instance_id, rate_card_id=self.world.card.rate_card_id
        )  # fmt: skip
        assert self._put(self.world.journal.opens, row) == [True]
        self.model.open(row)

    @precondition(lambda self: self.model.kept)
    @rule(data=st.data())
    def open_again(self, data: st.DataObject) -> None:
        """The id is taken for ever, whatever the second row says."""
        row = an_open_row(self.tenant_id, request_id=self._any(data), held_tokens=7, instance_id=self.instance_id)
        self._put(self.world.journal.opens, row)
        self.model.open(row)

    @precondition(lambda self: self.model.kept)
    @rule(data=st.data(), attempt=st.integers(1, 3))
    def send(self, data: st.DataObject, attempt: int) -> None:
        self._mark(Mark(self._any(data), attempt, False, Usage(), NOW, sent=True))

    @precondition(lambda self: self.model.kept)
    @rule(data=st.data(), attempt=st.integers(1, 3), usage=USAGES)
    def first_byte(self, data: st.DataObject, attempt: int, usage: Usage) -> None:
        self._mark(Mark(self._any(data), attempt, True, usage, NOW))

    @precondition(lambda self: self.model.kept)
    @rule(data=st.data(), attempt=st.integers(1, 3), usage=USAGES)
    def checkpoint(self, data: st.DataObject, attempt: int, usage: Usage) -> None:
        """Also one that comes late, after the end."""
        self._mark(Mark(self._any(data), attempt, False, usage, NOW))

    def _mark(self, mark: Mark) -> None:
        assert self._put(self.world.journal.marks, mark) == [self.model.mark(mark)]

    @precondition(lambda self: self.model.kept)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """The first time, or once more with other figures."""
        settlement = self._settlement(data)
        assert self._put(self.world.journal.settlements, settlement) == [self.model.settle(settlement)]

    @precondition(lambda self: len(self.model.kept) > 1)
    @rule(data=st.data(), bad=st.booleans())
    def settle_two_at_once(self, data: st.DataObject, bad: bool) -> None:
        """In one batch: of one request, of two, or beside one that the database refuses."""
        first, second = self._settlement(data), self._settlement(data, bad=bad)
        refused = bad and first.request_id != second.request_id and self.model.kept[second.request_id].final is None
        found = self._put(self.world.journal.settlements, first, second)
        counted = self.model.settle(first)
        if first.request_id == second.request_id:
            assert found == [counted, counted]
        elif refused:
            assert found[0] == counted
            assert isinstance(found[1], asyncpg.CheckViolationError)
        else:
            assert found == [counted, self.model.settle(second)]

    @precondition(lambda self: self.model.unfinished())
    @rule(limit=st.integers(1, 5), twice=st.booleans(), day=st.integers(-40, 20))
    def recover(self, limit: int, twice: bool, day: int) -> None:
        """The process is dead: the worker takes some of its rows; `twice`: a leader that was thought dead, too."""
        rows = self.world.run(unfinished(self.world.app, self.instance_id, limit))
        expected = self.model.unfinished()[:limit]
        assert [(row.request_id, row.state, row.attempt, row.checkpoint) for row in rows] == [
            (one.opened.request_id, one.state, one.attempt, one.recoverable) for one in expected
        ]
        ends: list[Settlement] = []
        for row, one in zip(rows, expected, strict=True):
            usage = row.checkpoint if row.delivered and row.checkpoint else Usage()
            assert row.card is not None
            ends.append(
                a_settlement(
                    one.opened, usage, state="recovered" if row.delivered else "voided", attempt=row.attempt,
                    source="checkpoint" if usage.total else "none", lines=rate(usage, row.card),
                    settled_at=self._moment(day),
                )
            )  # fmt: skip
        for _ in range(1 + twice):
            assert self._put(self.world.journal.settlements, *ends) == [self.model.settle(end) for end in ends]

    @precondition(lambda self: self.model.final() and len(self.invoices) < MONTHS_MAX)
    @rule()
    def close_the_month(self) -> None:
        end = month_of(self.period, ZONE).end
        self._closed(self.world.run(close(self.world.app, self.tenant_id, self.period, end)), end)

    @precondition(lambda self: self.model.unfinished() and len(self.invoices) < MONTHS_MAX)
    @rule(data=st.data())
    def close_the_month_meanwhile(self, data: st.DataObject) -> None:
        """A settlement on its way while the watermark moves: before it or behind it, and invoiced accordingly."""
        settlement, end = self._settlement(data), month_of(self.period, ZONE).end
        invoice, stored = self.world.run(self._both(settlement, end))
        assert stored == self.model.settle(settlement, self.model.watermark, end)
        self._closed(invoice, end)

    async def _both(self, settlement: Settlement, end: int) -> tuple[Invoice, bool]:
        return await asyncio.gather(
            close(self.world.app, self.tenant_id, self.period, end), self.world.journal.settlements.put(settlement)
        )

    @precondition(lambda self: any(one.micro_yen for one in self.model.final()))
    @rule(data=st.data(), statement=st.sampled_from(TAMPERING), owner=st.booleans())
    def tamper(self, data: st.DataObject, statement: str, owner: bool) -> None:
        charged = [one.opened.request_id for one in self.model.final() if one.micro_yen]
        self._refused(statement, data.draw(st.sampled_from(charged)), owner)

    @precondition(lambda self: any(one.state == "streaming" for one in self.model.unfinished()))
    @rule(data=st.data(), statement=st.sampled_from(TURNING_BACK), owner=st.booleans())
    def turn_back(self, data: st.DataObject, statement: str, owner: bool) -> None:
        streaming = [one.opened.request_id for one in self.model.unfinished() if one.state == "streaming"]
        self._refused(statement, data.draw(st.sampled_from(streaming)), owner)

    @invariant()
    def the_book_says_what_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        self.world.steps += 1
        look = self.world.owner.fetch(
            _LOOK, list(self.model.kept), self.tenant_id, self.since["audit"], self.since["outbox"]
        )
        rows = {row["request_id"]: row for row in self.world.run(look)}
        assert rows.keys() == self.model.kept.keys()
        for request_id, row in rows.items():
            _follows(self.before.get(request_id), row)
            _balanced(row)
            _as_modelled(row, self.model.kept[request_id])
        for start, end, invoiced in self.invoices:
            booked = [row["micro_yen"] for row in rows.values() if start <= (row["booked_at"] or 0) < end]
            assert sum(booked) == invoiced  # nothing has come before a watermark that stood already
        self.before = rows

    def _closed(self, invoice: Invoice, end: int) -> None:
        start = month_of(self.period, ZONE).start
        self.invoices.append((start, end, sum(line.micro_yen for line in invoice.lines)))
        self.period, self.model.watermark = following(self.period), end

    def _refused(self, statement: str, request_id: str, owner: bool) -> None:
        connection = self.world.owner if owner else self.world.app
        with pytest.raises((asyncpg.RestrictViolationError, asyncpg.InsufficientPrivilegeError)):
            self.world.run(connection.execute(statement, request_id))

    def _settlement(self, data: st.DataObject, *, bad: bool = False) -> Settlement:
        """The end of any row, in this month, or of one long past; `bad`: no count can be like this."""
        kept = self.model.kept[self._any(data)]
        changes: dict[str, Any] = {
            "settled_at": self._moment(data.draw(st.integers(-40, 20))), "attempt": data.draw(st.integers(1, 3)),
        }  # fmt: skip
        if bad:
            return a_settlement(kept.opened, Usage(prompt=1, cached=2, completion=1), lines=(), **changes)
        if data.draw(st.integers(0, 3)) == 0:
            return a_settlement(kept.opened, Usage(), state="voided", source="none", lines=(), **changes)
        return a_settlement(kept.opened, data.draw(USAGES), **changes)

    def _moment(self, day: int) -> int:
        return max(EARLIEST, month_of(self.period, ZONE).start + day * DAY)

    def _any(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.model.kept)))

    def _put(self, queue: GroupCommit[_T], *items: _T) -> list[bool | BaseException]:
        return self.world.run(_put(queue, items))


async def _put(queue: GroupCommit[_T], items: Sequence[_T]) -> list[bool | BaseException]:
    return await asyncio.gather(*map(queue.put, items), return_exceptions=True)


def _follows(before: Any, row: Any) -> None:
    """States go forward only, and a final row is frozen."""
    if before is not None:
        assert RANK[row["state"]] >= RANK[before["state"]]
        assert RANK[before["state"]] < RANK["settled"] or row["whole"] == before["whole"]


def _balanced(row: Any) -> None:
    """Both sides of the ledger are what the row was charged, at the row's time; what follows from it is told once."""
    final = RANK[row["state"]] == RANK["settled"]
    assert row["debit"] == row["credit"] == row["micro_yen"]
    assert list(row["moments"]) == ([row["booked_at"]] if row["lines"] else [])
    assert min(row["micro_yen"], row["least"], *row["usage"]) >= 0
    assert row["audits"] == (1 if final else 0)
    assert row["told"] == (1 if row["micro_yen"] else 0)


def _as_modelled(row: Any, one: Kept) -> None:
    assert (row["state"], row["attempt"], row["held_tokens"]) == (one.state, one.attempt, one.opened.held_tokens)
    assert (Usage(*row["usage"]), row["micro_yen"]) == (one.usage, one.micro_yen)
    assert row["lines"] == 2 * (len(one.final.lines) if one.final else 0)
    assert row["usage_source"] == (one.final.source if one.final else "none")
    assert row["booked_at"] in one.booked_at if one.final else row["booked_at"] is None
    checkpoint = row["checkpoint"] and (row["checkpoint"][0], Usage(*row["checkpoint"][1:]))
    assert checkpoint == one.checkpoint


def test_book_agrees_with_the_model_whatever_happens(stores: Stores) -> None:
    outcome: list[BaseException] = []
    steps: list[int] = []

    def live() -> None:
        world = World(stores)
        try:
            checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
            run_state_machine_as_test(
                type("LifeHere", (Life,), {"world": world}),
                settings=settings(
                    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=checks,
                    derandomize=True, database=None,
                    phases=[Phase.generate],  # making a failure smaller takes minutes: add Phase.shrink at your desk
                ),
            )  # fmt: skip
        except BaseException as error:
            outcome.append(error)
        finally:
            steps.append(world.steps)
            world.close()

    thread = threading.Thread(target=live)  # the test's own loop is running in this one
    thread.start()
    thread.join()
    if outcome:
        raise outcome[0]
    assert steps[0] >= 2_000
