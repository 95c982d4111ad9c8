"""Keys on a real PostgreSQL, asked by several processes' worth of `Repeats` at once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uuid_utils

from billing.journal import Journal, Mark
from billing.types import Usage
from gateway.faults import Fault
from gateway.repeats import service
from gateway.repeats.answer import ANSWER_BYTES_MAX, KeptAnswer, Recording, Room
from gateway.repeats.asked import canonical, hash_of, key_of
from gateway.repeats.service import Claim, Question, Repeats
from gateway.repeats.store import DEAD_AFTER_S, expire
from gateway.tenancy.keystore import KeyFiles
from tests.billing.rows import NOW, a_settlement, an_open_row
from tests.conftest import Stores

USED = Usage(10, 0, 5, 0)


class World:
    """Two gateways' keys on one book, one of them living, and a tenant."""

    def __init__(self, stores: Stores, keys: KeyFiles, database: Any) -> None:
        self.keys = keys
        self.database = database
        self.steady_s = float("inf")
        self.one, self.other = (Repeats(stores.dsn, keys, lambda: self.steady_s) for _ in range(2))
        self.journal = Journal(stores.dsn)
        self.living, self.tenant_id = f"gateway-{uuid_utils.uuid7()}", f"t-{uuid_utils.uuid7()}"[:20]

    async def beats(self, ago_s: float = 0.0) -> None:
        """The gateway's heartbeat was `ago_s` seconds ago."""
        await self.database.execute(
            "INSERT INTO instance (instance_id, kind, heartbeat_at) VALUES ($1, 'gateway', now() - $2 * interval '1 s')"
            " ON CONFLICT (instance_id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at",
            self.living, ago_s,
        )  # fmt: skip

    def question(self, key: str = "k", body: str = "x", **changes: Any) -> Question:
        """A new request under `key`."""
        values: dict[str, Any] = {
            "tenant_id": self.tenant_id, "key_hash": hash_of(self.tenant_id, key), "text": body.encode(),
            "request_id": str(uuid_utils.uuid7()), "instance_id": self.living, "key_id": "k" * 12, "model": "m",
            "action": "chat", "keeps": True,
        }  # fmt: skip
        return Question(**{**values, **changes})

    async def claimed(self, question: Question, repeats: Repeats | None = None) -> Claim:
        """The claim, which there must be."""
        claim = await (repeats or self.one).ask(question)
        assert isinstance(claim, Claim)
        return claim

    async def opened(self, question: Question) -> Any:
        """The request's row, open."""
        row = an_open_row(self.tenant_id, request_id=question.request_id, instance_id=self.living)
        assert await self.journal.opens.put(row)
        return row

    async def delivered(self, question: Question) -> Any:
        """The request's row, its first byte out."""
        row = await self.opened(question)
        assert await self.journal.marks.put(Mark(question.request_id, 1, True, Usage(), NOW))
        return row

    async def aged(self, seconds: float) -> None:
        """All claims of the tenant are older by so much."""
        await self.database.execute(
            "UPDATE idempotency_key SET claimed_at = claimed_at - $2 * interval '1 s' WHERE tenant_id = $1",
            self.tenant_id, seconds,
        )  # fmt: skip

    async def close(self) -> None:
        await self.one.close()
        await self.other.close()
        await self.journal.close()


@pytest_asyncio.fixture
async def world(stores: Stores, database: Any, tmp_path: Path) -> AsyncIterator[World]:
    """A new tenant, with a gateway that lives."""
    world = World(stores, KeyFiles(tmp_path), database)
    await world.beats()
    yield world
    await world.close()


async def refusal(asked: Any) -> Fault:
    with pytest.raises(Fault) as refused:
        await asked
    return refused.value


async def test_of_many_who_ask_at_once_on_two_gateways_one_runs_and_all_others_get_its_answer(world: World) -> None:
    running = 0

    async def ask(number: int) -> str:
        nonlocal running
        question = world.question()
        repeats = (world.one, world.other)[number % 2]
        found = await repeats.ask(question)
        if isinstance(found, KeptAnswer):
            return found.request_id
        running += 1
        assert running == 1
        row = await world.delivered(question)
        assert found.recording is not None
        found.recording.add(b"answer")
        await asyncio.sleep(0.05)
        await repeats.keep(found, "jp", stream=False)
        await world.journal.settlements.put(a_settlement(row, USED))
        await repeats.end(found, delivered=True)
        return question.request_id

    assert len(set(await asyncio.gather(*map(ask, range(40))))) == 1
    assert running == 1


async def test_key_of_a_request_that_reached_nobody_is_free_at_once(world: World) -> None:
    await world.one.end(await world.claimed(world.question()), delivered=False)
    other = await world.claimed(world.question(body="y"), world.other)  # another body is no matter any more
    await world.other.end(other, delivered=False)


async def test_row_that_recovery_voided_frees_the_key(world: World) -> None:
    first = world.question()
    await world.claimed(first)
    row = await world.opened(first)
    voided = a_settlement(row, Usage(), state="voided", lines=(), source="none", first_byte_at=None)
    await world.journal.settlements.put(voided)
    await world.one.end(await world.claimed(world.question(), world.other), delivered=False)


@pytest.mark.parametrize("why", ["dead", "late"])
async def test_request_without_a_row_gives_its_key_up_and_can_never_be_delivered_again(world: World, why: str) -> None:
    first = world.question()
    await world.claimed(first)
    await (world.beats(7.0) if why == "dead" else world.aged(31))
    second = world.question()
    await world.claimed(second, world.other)
    # The first one comes back to life: its row is there already, final, and no first byte is let out.
    await world.journal.opens.put(an_open_row(world.tenant_id, request_id=first.request_id))
    assert not await world.journal.marks.put(Mark(first.request_id, 1, True, Usage(), NOW))
    rows = await world.database.fetch(
        "SELECT request_id::text, state, key_id, model, micro_yen FROM journal WHERE tenant_id = $1", world.tenant_id
    )
    assert [tuple(row) for row in rows] == [(first.request_id, "voided", "k" * 12, "m", 0)]
    records = await world.database.fetch("SELECT record FROM audit_pending WHERE tenant_id = $1", world.tenant_id)
    assert len(records) == 1 and "request:recover" in records[0]["record"]


@pytest.mark.parametrize("state", ["no row", "streaming"])
async def test_gateway_is_not_taken_for_dead_right_after_the_database_was_away(
    world: World, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "WAIT_S_MAX", 0.2)
    first = world.question()
    await world.claimed(first)
    if state == "streaming":
        await world.delivered(first)
    await world.beats(60.0)  # the last one before the outage
    world.steady_s = DEAD_AFTER_S
    assert (await refusal(world.other.ask(world.question()))).code.name == "idempotency_in_progress"
    world.steady_s += 0.1  # it has had the time to say that it lives
    if state == "streaming":
        assert (await refusal(world.other.ask(world.question()))).code.name == "result_not_kept"
    else:
        await world.claimed(world.question(), world.other)


async def test_gateway_that_has_ended_in_order_is_dead_at_once(world: World) -> None:
    await world.claimed(world.question())
    await world.beats(float("inf"))
    world.steady_s = 0.0
    await world.claimed(world.question(), world.other)


@pytest.mark.parametrize("state", ["no row", "open", "streaming"])
async def test_repeat_waits_for_a_living_gateway_and_is_told_when_to_come_again(
    world: World, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "WAIT_S_MAX", 0.2)
    first = world.question()
    await world.claimed(first)
    if state != "no row":
        await (world.opened(first) if state == "open" else world.delivered(first))
    for repeats in (world.one, world.other):  # the same process waits for its own, another one for the row
        fault = await refusal(repeats.ask(world.question()))
        assert (fault.code.name, fault.code.status, fault.retry_after_s) == ("idempotency_in_progress", 409, 2)


async def test_line_of_those_who_wait_for_one_key_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "WAITING_MAX", 2)
    claim = await world.claimed(world.question())
    waiting = [asyncio.create_task(world.one.ask(world.question())) for _ in range(2)]
    await asyncio.sleep(0)
    assert (await refusal(world.one.ask(world.question()))).code.name == "idempotency_in_progress"
    await world.one.end(claim, delivered=False)
    for _ in range(2):  # one after the other claims the key that was given back
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        for task in done:
            waiting.remove(task)
            found = task.result()
            assert isinstance(found, Claim)
            await world.one.end(found, delivered=False)
    assert not waiting


@pytest.mark.parametrize("end", ["settled", "dead in mid-stream"])
async def test_delivered_request_without_a_kept_answer_is_never_run_again(world: World, end: str) -> None:
    first = world.question(keeps=False)
    claim = await world.claimed(first)
    assert claim.recording is None
    row = await world.delivered(first)
    if end == "settled":
        await world.journal.settlements.put(a_settlement(row, USED))
    await world.beats(7.0)
    fault = await refusal(world.other.ask(world.question()))
    assert (fault.code.name, fault.values["original"]) == ("result_not_kept", first.request_id)
    assert fault.headers == {"x-should-retry": "false"}
    other = await refusal(world.other.ask(world.question(body="y")))
    assert other.code.name == "idempotency_key_reused"


async def test_answer_that_was_kept_before_a_mark_that_never_came_is_not_given_out(world: World) -> None:
    first = world.question()
    claim = await world.claimed(first)
    row = await world.opened(first)
    assert claim.recording is not None
    claim.recording.add(b"never delivered")
    await world.one.keep(claim, "jp", stream=False)
    voided = a_settlement(row, Usage(), state="voided", lines=(), source="none", first_byte_at=None)
    await world.journal.settlements.put(voided)
    await world.claimed(world.question(), world.other)


async def test_answer_of_one_key_opens_under_no_other_row(world: World) -> None:
    for key in ("one", "two"):
        question = world.question(key)
        claim = await world.claimed(question)
        row = await world.delivered(question)
        assert claim.recording is not None
        claim.recording.add(key.encode())
        await world.one.keep(claim, "jp", stream=False)
        await world.journal.settlements.put(a_settlement(row, USED))
        await world.one.end(claim, delivered=True)
    await world.database.execute(
        "UPDATE idempotency_key SET answer = (SELECT answer FROM idempotency_key WHERE key_hash = $2)"
        " WHERE key_hash = $1",
        hash_of(world.tenant_id, "one"), hash_of(world.tenant_id, "two"),
    )  # fmt: skip
    two = await world.one.ask(world.question("two"))
    assert isinstance(two, KeptAnswer) and two.body == b"two"
    assert (await refusal(world.one.ask(world.question("one")))).code.name == "result_not_kept"


async def test_rotated_tenant_key_still_tells_repeat_from_reuse(world: World) -> None:
    question = world.question()
    claim = await world.claimed(question)
    row = await world.delivered(question)
    assert claim.recording is not None
    claim.recording.add(b"a")
    await world.one.keep(claim, "jp", stream=True)
    await world.journal.settlements.put(a_settlement(row, USED))
    await world.one.end(claim, delivered=True)
    world.keys.rotate(world.tenant_id)
    again = await world.other.ask(world.question())
    assert again == KeptAnswer(question.request_id, "jp", True, b"a")
    assert (await refusal(world.other.ask(world.question(body="y")))).code.name == "idempotency_key_reused"


async def test_expired_key_is_free_before_the_worker_deletes_it_and_living_ones_stay(world: World) -> None:
    await world.claimed(world.question("old"))
    await world.claimed(world.question("new"))
    old = hash_of(world.tenant_id, "old")
    expired = "UPDATE idempotency_key SET expires_at = now() - interval '1 s' WHERE key_hash = $1"
    await world.database.execute(expired, old)
    await world.claimed(world.question("old", body="y"), world.other)
    await world.database.execute(expired, old)
    assert await expire(world.database) >= 1
    left = await world.database.fetch("SELECT key_hash FROM idempotency_key WHERE tenant_id = $1", world.tenant_id)
    assert [row["key_hash"] for row in left] == [hash_of(world.tenant_id, "new")]


async def test_key_store_or_book_away_is_told_as_such_and_blocks_nobody_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_tenant_id: str) -> Any:
        raise OSError("no folder")

    with monkeypatch.context() as patched:
        patched.setattr(world.keys, "current", away)
        fault = await refusal(world.one.ask(world.question()))
        assert (fault.code.name, fault.retry_after_s) == ("store_unavailable", 1)
    nowhere = Repeats("postgresql://nobody@/nothing?host=/nonexistent", world.keys, lambda: 0.0)
    assert (await refusal(nowhere.ask(world.question()))).code.name == "store_unavailable"
    await nowhere.close()
    await world.claimed(world.question())


async def test_answer_that_cannot_be_stored_is_no_reason_to_fail(world: World) -> None:
    question = world.question()
    claim = await world.claimed(question)
    await world.claimed(replace(world.question(), key_hash=hash_of(world.tenant_id, "k2")))
    nowhere = Repeats("postgresql://nobody@/nothing?host=/nonexistent", world.keys, lambda: 0.0)
    assert claim.recording is not None
    claim.recording.add(b"a")
    await nowhere.keep(claim, "jp", stream=False)
    await nowhere.close()
    await world.one.end(claim, delivered=True)


def test_recording_is_bounded_for_one_answer_and_for_all_together() -> None:
    room = Room(ANSWER_BYTES_MAX + 10)
    first, second = Recording(room), Recording(room)
    first.add(b"x" * ANSWER_BYTES_MAX)
    second.add(b"y" * 10)
    assert (len(first.body()), second.body(), room.left) == (ANSWER_BYTES_MAX, b"y" * 10, 0)
    second.add(b"z")  # more than there is room for
    assert (second.overflown, second.body(), room.left) == (True, b"", 10)
    first.add(b"x")  # more than one answer may have
    assert (first.overflown, first.body(), room.left) == (True, b"", ANSWER_BYTES_MAX + 10)
    first.drop()
    assert room.left == ANSWER_BYTES_MAX + 10


@pytest.mark.parametrize(
    ("written", "meant"),
    [("abc", "abc"), (" a b\t", "a b"), ('"abc"', "abc"), (r'"a\"b\\"', 'a"b\\'), ("x" * 255, "x" * 255), ("~", "~"),
     ('a"b', 'a"b'), (f'"{"x" * 255}"', "x" * 255)],
)  # fmt: skip
def test_key_is_what_stands_in_the_header_with_or_without_quotes(written: str, meant: str) -> None:
    assert key_of([written]) == meant


@pytest.mark.parametrize(
    "values", [[], ["a", "a"], [""], [" "], ['""'], ['"a'], ["x" * 256], ["é"], ["a\x7f"], ["a\tb"], [r'"\a"']]
)
def test_what_is_no_key_is_refused_by_name(values: list[str]) -> None:
    with pytest.raises(Fault) as refused:
        key_of(values)
    assert (refused.value.code.name, refused.value.param) == ("invalid_value", "Idempotency-Key")


def test_canonical_form_is_that_of_the_values() -> None:
    tree = {"b": [1, {"y": 1, "x": "関"}], "a": None}
    assert canonical("/c", "p", "d", tree) == canonical("/c", "p", "d", {"a": None, "b": [1, {"x": "関", "y": 1}]})
    others = [
        canonical(*changed)
        for changed in (
            ("/d", "p", "d", tree), ("/c", "q", "d", tree), ("/c", "p", "e", tree), ("/c", "p", "d", {"b": tree["b"]}),
            ("/c", "p", "d", {**tree, "b": [{"y": 1, "x": "関"}, 1]}), ("/c", "pd", "", tree),
            ("/c", "p", "d", {**tree, "b": [1.0, {"y": 1, "x": "関"}]}),
        )
    ]  # fmt: skip
    assert len({canonical("/c", "p", "d", tree), *others}) == 8
