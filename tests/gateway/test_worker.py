"""Recovery and sweep on real stores: what a dead gateway left is settled once, from the best count there is."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest_asyncio
import uuid_utils
from aiohttp import web
from redis.asyncio import Redis

from billing.journal import Journal, Mark
from billing.link import Link
from billing.recovery import Final, finals
from billing.types import OpenRow, Usage
from gateway.limits.holds import Holds
from gateway.limits.levels import UNBOUNDED, LimitLevel
from gateway.settings import Settings
from gateway.tenancy.snapshot import Tenant
from gateway.upstreams.client import Timeouts
from gateway.upstreams.witness import State
from gateway.work.liveness import DEAD_AFTER_S, Liveness
from gateway.work.patience import QUESTIONS_MIN, SILENT_S_MAX, UNKNOWN_S_MAX, Patience
from gateway.work.steps import every
from gateway.work.tidy import Tidy
from gateway.worker import Worker
from tests.billing.rows import NOW, a_settlement, an_open_row
from tests.conftest import Stores, a_tenant


async def rounds(worker: Worker, start: float, end: float) -> None:
    """One round per second of the monotonic clock from `start` to `end`."""
    now = start
    while now <= end:
        await worker.round(now)
        now += 1


class Engine:
    """The witness of an engine: answers what a test puts into `records`."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.away = False
        self.asked = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.away:
            return web.Response(status=502)
        attempt_id = request.match_info["attempt_id"]
        record = self.records.get(attempt_id, {"state": "unknown"})
        return web.json_response(record, status=200 if attempt_id in self.records else 404)


@pytest_asyncio.fixture
async def engine(stores: Stores) -> AsyncIterator[tuple[Engine, str]]:
    """An engine with a witness, registered as an upstream; and the upstream's id."""
    engine = Engine()
    app = web.Application()
    app.router.add_get("/witness/{attempt_id}", engine.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    upstream_id = f"u-{uuid_utils.uuid7()}"
    journal = Journal(stores.dsn)
    link = journal._open_link
    await link.fetch(
        "INSERT INTO upstream (upstream_id, model, base_url, served_model, witness_url, tier, region, site, profile)"
        " VALUES ($1, 'model-1', $2, 'm', $3, 'heavy', 'jp-east', 's', $4::jsonb)",
        upstream_id, f"{url}/v1", f"{url}/witness",
        json.dumps({"context_tokens": 1, "max_output_tokens": 1}),
    )  # fmt: skip
    await link.fetch(
        "INSERT INTO rate_card (rate_card_id, model, effective_from, input_price, cached_input_price, output_price)"
        " VALUES ('card-1', 'model-1', '2026-01-01', 120, 60, 480) ON CONFLICT DO NOTHING"
    )
    await journal.close()
    yield engine, upstream_id
    await runner.cleanup()


class Left:
    """What a gateway left behind when it died."""

    def __init__(self, stores: Stores, upstream_id: str) -> None:
        self.tenant: Tenant = a_tenant()
        self.instance_id = f"gateway-{uuid_utils.uuid7()}"
        self.upstream_id = upstream_id
        self.journal = Journal(stores.dsn)
        self.holds = Holds(stores.valkey_url, stores.dsn)
        self.link = self.journal._open_link

    async def request(self, *, delivered: bool, checkpoint: Usage | None = None) -> OpenRow:
        row = an_open_row(self.tenant.tenant_id, instance_id=self.instance_id, upstream_id=self.upstream_id)
        await self.hold(row.request_id, tokens=100, micro_yen=48_000)
        await self.journal.opens.put(row)
        if delivered:
            await self.journal.marks.put(Mark(row.request_id, 1, True, Usage(), NOW))
        if checkpoint is not None:
            await self.journal.marks.put(Mark(row.request_id, 1, False, checkpoint, NOW))
        return row

    async def hold(self, request_id: str, tokens: int, micro_yen: int) -> None:
        tenant_id = self.tenant.tenant_id
        levels = (
            LimitLevel("tenant", tenant_id, self.tenant.limits),
            LimitLevel("licence", "lic/g1", UNBOUNDED),
            LimitLevel("key", "k" * 12, UNBOUNDED),
        )
        await self.holds.reserve(request_id, tenant_id, levels, "202611", tokens, micro_yen, self.instance_id)

    async def state(self, row: OpenRow) -> tuple[Any, ...]:
        found = await self.link.fetch(
            "SELECT state, usage_source, prompt_tokens, completion_tokens, micro_yen FROM journal"
            " WHERE request_id = $1::text::uuid",
            row.request_id,
        )
        return tuple(found[0])

    async def held(self) -> set[str]:
        return {entry.request_id async for entry in self.holds.entries() if entry.tenant_id == self.tenant.tenant_id}


@pytest_asyncio.fixture
async def left(stores: Stores, engine: tuple[Engine, str]) -> AsyncIterator[Left]:
    left = Left(stores, engine[1])
    yield left
    await left.journal.close()
    await left.holds.close()


@pytest_asyncio.fixture
async def worker(stores: Stores, tmp_path: Path) -> AsyncIterator[Worker]:
    worker = Worker(Settings(tmp_path, stores.dsn, stores.valkey_url, Timeouts(), 1.0))
    yield worker
    await worker.close()


async def test_engines_record_settles_a_delivered_stream_exactly(
    worker: Worker, left: Left, engine: tuple[Engine, str]
) -> None:
    row = await left.request(delivered=True, checkpoint=Usage(9, 0, 3, 0))
    engine[0].records[f"{row.request_id}-1"] = {"state": "aborted", "prompt_tokens": 9, "completion_tokens": 5}
    await rounds(worker, 0, 2)
    assert await left.state(row) == ("recovered", "witness", 9, 5, 9 * 120 + 5 * 480)
    assert await left.held() == set()


async def test_request_that_delivered_nothing_is_charged_to_nobody(
    worker: Worker, left: Left, engine: tuple[Engine, str]
) -> None:
    row = await left.request(delivered=False)
    engine[0].records[f"{row.request_id}-1"] = {"state": "finished", "prompt_tokens": 9, "completion_tokens": 5}
    await rounds(worker, 0, 2)
    assert await left.state(row) == ("voided", "none", 0, 0, 0)
    assert await left.held() == set()


async def test_last_checkpoint_counts_when_the_engine_has_no_record(worker: Worker, left: Left) -> None:
    row = await left.request(delivered=True, checkpoint=Usage(9, 0, 3, 0))
    await rounds(worker, 0, 2)
    assert (await left.state(row))[0] == "streaming"  # the engine may still be writing its record
    await rounds(worker, 3, UNKNOWN_S_MAX + 2)
    assert await left.state(row) == ("recovered", "checkpoint", 9, 3, 9 * 120 + 3 * 480)


async def test_an_engine_that_is_away_is_waited_for(worker: Worker, left: Left, engine: tuple[Engine, str]) -> None:
    row = await left.request(delivered=True, checkpoint=Usage(9, 0, 3, 0))
    engine[0].away = True
    await rounds(worker, 0, 2 * UNKNOWN_S_MAX)
    assert (await left.state(row))[0] == "streaming"
    engine[0].away = False
    engine[0].records[f"{row.request_id}-1"] = {"state": "aborted", "prompt_tokens": 9, "completion_tokens": 5}
    await rounds(worker, 2 * UNKNOWN_S_MAX + 1, 2 * UNKNOWN_S_MAX + 1)
    assert await left.state(row) == ("recovered", "witness", 9, 5, 9 * 120 + 5 * 480)


async def test_an_engine_that_stays_away_leaves_the_checkpoint(
    worker: Worker, left: Left, engine: tuple[Engine, str]
) -> None:
    row = await left.request(delivered=True, checkpoint=Usage(9, 0, 3, 0))
    engine[0].away = True
    await rounds(worker, 0, QUESTIONS_MIN)
    for now in range(1, 7):  # rounds of twenty seconds each
        assert (await left.state(row))[0] == "streaming"
        await worker.round(20.0 * now)
    assert await left.state(row) == ("recovered", "checkpoint", 9, 3, 9 * 120 + 3 * 480)


async def test_a_silent_engine_is_asked_once_a_round_and_delays_no_other(
    worker: Worker, left: Left, engine: tuple[Engine, str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("gateway.work.recover.QUESTIONS_MAX", 1)
    monkeypatch.setattr("gateway.work.recover.BATCH_ROWS", 2)
    rows = [await left.request(delivered=True) for _ in range(3)]
    undelivered = [await left.request(delivered=False) for _ in range(3)]
    engine[0].away = True
    await rounds(worker, 0, 0)
    assert engine[0].asked == 1
    assert {(await left.state(row))[0] for row in rows} == {"streaming"}
    assert {(await left.state(row))[0] for row in undelivered} == {"voided"}


async def test_a_hold_that_cannot_be_ended_stops_no_other(worker: Worker, left: Left, monkeypatch: Any) -> None:
    rows = [await left.request(delivered=False) for _ in range(3)]

    async def fails(_: object) -> None:
        raise OSError("Valkey is away")

    monkeypatch.setattr(worker.holds, "release", fails)
    await rounds(worker, 0, 0)
    assert {(await left.state(row))[0] for row in rows} == {"voided"}


async def test_row_that_went_on_while_it_was_judged_is_not_closed(worker: Worker, left: Left, monkeypatch: Any) -> None:
    """A process that was taken for dead lives: its first byte's mark comes between the reading and the settlement."""
    row = await left.request(delivered=False)
    count = worker._recovery._count

    def delivered_meanwhile(judged: Any, *others: Any) -> Any:
        if judged.request_id == row.request_id:
            marking.append(left.journal.marks.put(Mark(row.request_id, 1, True, Usage(), NOW)))
        return count(judged, *others)

    marking: list[asyncio.Future[bool]] = []
    put = worker._journal.settlements.put

    async def after_the_mark(settlement: Any) -> bool:
        await asyncio.gather(*marking)
        return await put(settlement)

    monkeypatch.setattr(worker._recovery, "_count", delivered_meanwhile)
    monkeypatch.setattr(worker._journal.settlements, "put", after_the_mark)
    await rounds(worker, 0, 0)
    assert [mark.result() for mark in marking] == [True]
    assert (await left.state(row))[0] == "streaming"
    assert row.request_id in await left.held()
    assert await left.journal.settlements.put(a_settlement(row, Usage(9, 0, 5, 0)))


async def test_recovery_twice_books_once(worker: Worker, left: Left, engine: tuple[Engine, str]) -> None:
    row = await left.request(delivered=True)
    engine[0].records[f"{row.request_id}-1"] = {"state": "finished", "prompt_tokens": 9, "completion_tokens": 5}
    await rounds(worker, 0, 2)
    late = a_settlement(row, Usage(1_000, 0, 1_000, 0))  # the gateway was not dead, only slow
    await left.journal.settlements.put(late)
    assert await left.state(row) == ("recovered", "witness", 9, 5, 9 * 120 + 5 * 480)
    booked = await left.link.fetch(
        "SELECT sum(debit)::bigint AS debit FROM ledger_entry WHERE tenant_id = $1", row.tenant_id
    )
    assert booked[0]["debit"] == 9 * 120 + 5 * 480


async def test_sweep_ends_holds_of_settled_requests_and_of_requests_without_a_row(
    worker: Worker, left: Left, stores: Stores, monkeypatch: Any
) -> None:
    monkeypatch.setattr("gateway.work.sweep.HOLD_AGE_S_MIN", -1)
    settled = await left.request(delivered=False)
    await left.journal.settlements.put(a_settlement(settled, Usage(20, 0, 10, 0)))  # killed before its release
    orphan = str(uuid_utils.uuid7())  # killed before its row
    await left.hold(orphan, tokens=70, micro_yen=1)
    await rounds(worker, 0, 2)
    assert await left.held() == set()
    valkey: Any = Redis.from_url(stores.valkey_url, decode_responses=True)
    name = (await left.link.fetch("SELECT name FROM limits_mode"))[0]["name"]
    use = await valkey.hgetall(f"sekisho:{name}:use:{left.tenant.tenant_id}:202611")
    await valkey.aclose()
    for level in ("", "licence:lic/g1 ", f"key:{'k' * 12} "):
        assert (use[f"{level}used_tokens"], use[f"{level}held_tokens"]) == ("30", "0")


async def test_gateway_that_slept_cannot_deliver_on_a_hold_that_the_sweep_has_ended(
    worker: Worker, left: Left, monkeypatch: Any
) -> None:
    monkeypatch.setattr("gateway.work.sweep.HOLD_AGE_S_MIN", -1)
    row = an_open_row(left.tenant.tenant_id, instance_id=left.instance_id, upstream_id=left.upstream_id)
    await left.hold(row.request_id, tokens=100, micro_yen=48_000)
    await rounds(worker, 0, 2)
    assert await left.held() == set()
    await left.journal.opens.put(row)  # it wakes up
    assert not await left.journal.marks.put(Mark(row.request_id, 1, True, Usage(), NOW))
    assert await left.state(row) == ("voided", "none", 0, 0, 0)
    audits = await left.link.fetch("SELECT record FROM audit_pending WHERE request_id = $1::text::uuid", row.request_id)
    (record,) = [json.loads(audit["record"]) for audit in audits]
    assert (record["verb"], record["tenant"], record["key"]) == ("request:recover", row.tenant_id, "k" * 12)


async def test_hold_whose_row_comes_while_the_sweep_judges_it_stays(
    worker: Worker, left: Left, monkeypatch: Any
) -> None:
    monkeypatch.setattr("gateway.work.sweep.HOLD_AGE_S_MIN", -1)
    row = an_open_row(left.tenant.tenant_id, instance_id=left.instance_id, upstream_id=left.upstream_id)
    await left.hold(row.request_id, tokens=100, micro_yen=48_000)

    async def before_the_row(link: Link, request_ids: list[str]) -> dict[str, Final]:
        found = await finals(link, request_ids)
        await left.journal.opens.put(row)
        return found

    monkeypatch.setattr("gateway.work.sweep.finals", before_the_row)
    await rounds(worker, 0, 0)
    assert await left.held() == {row.request_id}
    assert (await left.state(row))[0] == "open"


async def test_hold_whose_request_no_row_can_name_stops_no_other(worker: Worker, left: Left, monkeypatch: Any) -> None:
    monkeypatch.setattr("gateway.work.sweep.HOLD_AGE_S_MIN", -1)
    of_no_month = "00000000-0000-7000-8000-" + uuid4().hex[:12]  # 1970: no partition of the journal takes it
    for request_id in (of_no_month, str(uuid_utils.uuid7())):
        await left.hold(request_id, tokens=70, micro_yen=1)
    await rounds(worker, 0, 2)
    assert await left.held() == {of_no_month}


async def test_work_of_a_living_process_is_left_alone(worker: Worker, left: Left, monkeypatch: Any) -> None:
    monkeypatch.setattr("gateway.work.sweep.HOLD_AGE_S_MIN", -1)
    row = await left.request(delivered=True)
    held_only = str(uuid_utils.uuid7())
    await left.hold(held_only, tokens=70, micro_yen=1)
    beat = "INSERT INTO instance (instance_id, kind) VALUES ($1, 'gateway')"
    await left.link.fetch(beat, left.instance_id)
    for second in range(int(3 * DEAD_AFTER_S)):
        if second % int(DEAD_AFTER_S - 1) == 0:
            await left.link.fetch("UPDATE instance SET heartbeat_at = now() WHERE instance_id = $1", left.instance_id)
        await worker.round(float(second))
    assert (await left.state(row))[0] == "streaming"
    assert await left.held() == {row.request_id, held_only}


async def test_hold_whose_answer_got_lost_ends_though_its_process_lives(
    worker: Worker, left: Left, monkeypatch: Any
) -> None:
    held_only = str(uuid_utils.uuid7())
    await left.hold(held_only, tokens=70, micro_yen=1)
    await left.link.fetch("INSERT INTO instance (instance_id, kind) VALUES ($1, 'gateway')", left.instance_id)
    monkeypatch.setattr("gateway.work.sweep.HOLD_AGE_S_MIN", -1)
    await rounds(worker, 0, 3)
    assert await left.held() == {held_only}
    monkeypatch.setattr("gateway.work.sweep.ROWLESS_HOLD_S_MAX", -1)
    await rounds(worker, 4, 7)
    assert await left.held() == set()


async def test_process_that_stopped_saying_so_is_recovered_after_five_seconds(worker: Worker, left: Left) -> None:
    row = await left.request(delivered=False)
    await left.link.fetch("INSERT INTO instance (instance_id, kind) VALUES ($1, 'gateway')", left.instance_id)
    await rounds(worker, 0, DEAD_AFTER_S - 1)
    assert (await left.state(row))[0] == "open"
    await rounds(worker, DEAD_AFTER_S, DEAD_AFTER_S + 1)
    assert (await left.state(row))[0] == "voided"


async def test_row_without_its_rate_card_stops_no_other(worker: Worker, left: Left, engine: tuple[Engine, str]) -> None:
    poison = an_open_row(
        left.tenant.tenant_id, instance_id=left.instance_id, upstream_id=left.upstream_id, rate_card_id="gone"
    )
    await left.journal.opens.put(poison)
    await left.journal.marks.put(Mark(poison.request_id, 1, True, Usage(), NOW))
    row = await left.request(delivered=True)
    for request_id in (poison.request_id, row.request_id):
        engine[0].records[f"{request_id}-1"] = {"state": "finished", "prompt_tokens": 9, "completion_tokens": 5}
    await rounds(worker, 0, 2)
    assert (await left.state(row))[0] == "recovered"
    assert (await left.state(poison))[0] == "streaming"


async def test_closed_row_tells_the_gateway_that_was_taken_for_dead(worker: Worker, left: Left) -> None:
    row = await left.request(delivered=False)
    await rounds(worker, 0, 2)
    assert not await left.journal.marks.put(Mark(row.request_id, 1, True, Usage(), NOW))
    assert not await left.journal.settlements.put(a_settlement(row, Usage(9, 0, 5, 0)))


async def test_tidying_deletes_all_there_is_and_not_one_batch_a_round(
    stores: Stores, worker: Worker, left: Left, monkeypatch: Any
) -> None:
    monkeypatch.setattr("gateway.work.tidy.EXPIRE_ROWS_MAX", 2)
    monkeypatch.setattr("gateway.repeats.store.EXPIRE_ROWS_MAX", 2)
    await left.link.fetch(
        "INSERT INTO idempotency_key (tenant_id, key_hash, fingerprint, tenant_key, request_id, instance_id, key_id,"
        " model, action, expires_at) SELECT $1, sha256(int4send(n)), sha256(''), 'k', gen_random_uuid(), 'i', 'k', 'm',"
        " 'chat', now() - interval '1 second' FROM generate_series(1, 5) n",
        left.tenant.tenant_id,
    )
    tidy = Tidy(stores.dsn, worker.holds)
    await tidy.round()
    await tidy.close()
    assert await left.link.fetch("SELECT 1 FROM idempotency_key WHERE tenant_id = $1", left.tenant.tenant_id) == []


async def test_work_that_says_there_is_more_is_repeated_at_once() -> None:
    stop = asyncio.Event()
    turns: list[int] = []

    async def work() -> bool:
        turns.append(len(turns))
        if len(turns) == 4:
            stop.set()
        return True

    async with asyncio.timeout(5):
        await every(stop, 60.0, "work", work)
    assert len(turns) == 4


def test_dead_stays_dead_over_a_gap_in_the_readings() -> None:
    liveness = Liveness()
    for now in range(7):
        liveness.observe({"a": "t1"}, now=now)
    assert not liveness.alive("a", now=6)
    liveness.observe({"a": "t1"}, now=16)  # a round that took ten seconds
    assert not liveness.alive("a", now=16)
    liveness.observe({"a": "t2"}, now=17)
    assert liveness.alive("a", now=17)


def test_who_lives_again_is_not_dead_after_a_gap_though_nobody_asked_meanwhile() -> None:
    liveness = Liveness()
    for now in range(7):
        liveness.observe({"a": "t1"}, now=now)
    assert not liveness.alive("a", now=6)
    for now in range(7, 12):
        liveness.observe({"a": f"t{now}"}, now=now)
    for now in range(12, 16):
        liveness.observe({"a": "t11"}, now=now)
    liveness.observe({"a": "t11"}, now=20)  # the database was away: five seconds and more of the same, with a gap
    assert liveness.alive("a", now=20)


def test_database_that_was_away_makes_nobody_look_dead() -> None:
    liveness = Liveness()
    liveness.observe({"a": "t1"}, now=0)
    liveness.observe({"a": "t1"}, now=100)  # the first reading after the outage shows the old heartbeat
    assert liveness.alive("a", now=100)
    for now in range(101, 106):
        liveness.observe({"a": "t1"}, now=now)
    assert not liveness.alive("a", now=105)


def test_retired_process_is_dead_at_once_and_an_unknown_one_too() -> None:
    liveness = Liveness()
    liveness.observe({"a": "-infinity", "b": "t"}, now=0)
    assert [liveness.alive(name, now=0) for name in ("a", "b", "c")] == [False, True, False]


def test_patience_counts_from_the_first_question_and_takes_no_single_answer_for_long_silence() -> None:
    patience = Patience()

    def ended(attempt_id: str, said: State | None, now: float) -> bool:
        patience.round_ended()
        return patience.ended(attempt_id, said, now)

    assert not ended("a", None, 0.0)
    assert not ended("a", None, 2 * SILENT_S_MAX)  # the second question, after a round that took long
    assert [ended("a", "running", 2 * SILENT_S_MAX + n) for n in range(3)] == [False, False, True]
    assert not ended("b", "unknown", 1_000.0)
    assert [ended("b", "unknown", 1_000.0 + n) for n in (2, 4, 6, 8, 10)] == [False] * 4 + [True]
    patience.round_ended()  # a round in which nobody asked about it: its process lived
    assert [ended("b", "unknown", 1_100.0 + n) for n in (0, 2, 4, 6, 8, 10)] == [False] * 5 + [True]
