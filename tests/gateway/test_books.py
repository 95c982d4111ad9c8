"""The platform's account and the reconciliation: every token that an engine worked for is somebody's, exactly once."""

import random
from collections.abc import AsyncIterator
from dataclasses import astuple, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import uuid_utils

from billing import witnessed
from billing.journal import Journal
from billing.reconcile import Reconciliation, reconcile
from billing.types import OpenRow, Usage
from gateway.books import Books
from gateway.books_command import reconcile_command
from gateway.migrations.run import migrate
from gateway.upstreams.witness import EngineRecord, Page, WitnessFile
from tests.billing.rows import NOW, a_settlement, an_open_row
from tests.conftest import Stores

USAGE = Usage(prompt=30, cached=10, completion=7, reasoning=2, image=4)
DAY = datetime.fromtimestamp(NOW / 1_000_000, UTC)
SPAN = (DAY - timedelta(days=1), DAY + timedelta(days=1))


def plus(one: Usage, other: Usage) -> Usage:
    return Usage(*(a + b for a, b in zip(astuple(one), astuple(other), strict=True)))


class Engine:
    """The witness of an engine, as `gateway.upstreams.witness.Witness` asks it: two files, small pages."""

    def __init__(self) -> None:
        self.records: dict[str, list[EngineRecord]] = {"a.jsonl": [], "b.jsonl": []}
        self.answers = True
        self.page_rows = 3

    def wrote(self, attempt_id: str, usage: Usage, file: str = "a.jsonl") -> None:
        self.records[file].append(EngineRecord(attempt_id, "model-1", "finished", usage, "stop", NOW, NOW + 1))

    async def files(self, _url: str) -> list[WitnessFile] | None:
        return [WitnessFile(name, len(rows)) for name, rows in self.records.items()] if self.answers else None

    async def page(self, _url: str, file: str, after: int, _limit: int) -> Page | None:
        rows = self.records[file][after : after + self.page_rows]
        return Page(file, after + len(rows), after + len(rows) < len(self.records[file]), rows)


class World:
    """A database of its own, since the comparison looks at everything in it."""

    def __init__(self, dsn: str, database: Any) -> None:
        self.dsn, self.database = dsn, database
        self.engine = Engine()
        self.journal = Journal(dsn)
        self.books = Books(dsn, self.engine)  # type: ignore[arg-type] # all that is asked of a witness

    async def exchange(self, usage: Usage, **changes: Any) -> OpenRow:
        row = an_open_row("t-1", upstream_id="u-books")
        await self.journal.opens.put(row)
        await self.journal.settlements.put(a_settlement(row, usage, **changes))
        return row

    async def round(self) -> None:
        await self.books.read()
        await witnessed.judge(self.database)

    async def platform(self) -> dict[str, tuple[str, int, int]]:
        rows = await self.database.fetch("SELECT * FROM platform_usage")
        return {row["attempt_id"]: (row["reason"], row["prompt_tokens"], row["completion_tokens"]) for row in rows}

    async def reconcile(self) -> Reconciliation:
        return await reconcile(self.database, *SPAN)

    async def codes(self) -> list[str]:
        return [finding.code for finding in (await self.reconcile()).findings]


@pytest_asyncio.fixture(scope="module")
async def template(stores: Stores) -> AsyncIterator[str]:
    """The name of an empty book that others are copied from."""
    admin = await asyncpg.connect(stores.dsn)
    await admin.execute("CREATE DATABASE books_template")
    await migrate(stores.dsn.replace("/sekisho?", "/books_template?"))
    yield "books_template"
    await admin.execute("DROP DATABASE books_template WITH (FORCE)")
    await admin.close()


@pytest_asyncio.fixture
async def world(stores: Stores, template: str) -> AsyncIterator[World]:
    admin = await asyncpg.connect(stores.dsn)
    name = f"books_{uuid_utils.uuid7().hex}"
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    dsn = stores.dsn.replace("/sekisho?", f"/{name}?")
    owner = await asyncpg.connect(dsn)
    await owner.execute(
        "INSERT INTO upstream (upstream_id, model, base_url, served_model, witness_url, tier, region, site, profile)"
        " VALUES ('u-books', 'model-1', 'http://e/v1', 'm', 'http://e/witness', 'heavy', 'jp-east', 's', '{}')"
    )
    await owner.execute("SET ROLE sekisho_app")
    world = World(dsn, owner)
    yield world
    await world.journal.close()
    await world.books.close()
    await owner.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def test_what_was_booked_as_the_engine_counted_it_is_nobody_elses(world: World) -> None:
    row = await world.exchange(USAGE)
    world.engine.wrote(f"{row.request_id}-1", USAGE)
    await world.round()
    assert await world.platform() == {}
    found = await world.reconcile()
    assert (found.witness, found.tenants, found.platform, found.findings) == (USAGE, USAGE, Usage(), ())


async def test_each_reason_of_the_platforms_account(world: World) -> None:
    engine = world.engine
    gone = await world.exchange(USAGE, outcome="client_gone")
    engine.wrote(f"{gone.request_id}-1", replace(USAGE, completion=19))
    retried = await world.exchange(USAGE, attempt=2)
    engine.wrote(f"{retried.request_id}-1", Usage(30, 0, 3, 0))
    engine.wrote(f"{retried.request_id}-2", USAGE, "b.jsonl")
    voided = await world.exchange(Usage(), state="voided", source="none", lines=(), first_byte_at=None)
    engine.wrote(f"{voided.request_id}-1", USAGE)
    engine.wrote("warm-up", Usage(2, 0, 1, 0), "b.jsonl")
    lost = uuid_utils.uuid7()
    engine.wrote(f"{lost}-1", Usage(5, 0, 4, 0))
    await world.round()
    assert str(lost) + "-1" not in await world.platform()  # its row may still come
    await world.database.execute("UPDATE witness_record SET read_at = now() - interval '11 minutes'")
    await world.round()
    assert await world.platform() == {
        f"{gone.request_id}-1": ("uncollected", 0, 12),
        f"{retried.request_id}-1": ("superseded", 30, 3),
        f"{voided.request_id}-1": ("never_delivered", 30, 7),
        "warm-up": ("probe", 2, 1),
        f"{lost}-1": ("unjournaled", 5, 4),
    }
    found = await world.reconcile()
    assert found.findings == ()
    assert found.witness == plus(found.tenants, found.platform)


async def test_kind_that_the_last_usage_did_not_know_is_the_platforms(world: World) -> None:
    row = await world.exchange(Usage(prompt=30, completion=7), outcome="client_gone")
    world.engine.wrote(f"{row.request_id}-1", USAGE)
    await world.round()
    found = await world.reconcile()
    assert found.findings == ()
    assert found.platform == Usage(cached=10, reasoning=2, image=4)


async def test_record_of_a_request_under_way_waits_for_its_end(world: World) -> None:
    row = an_open_row("t-1", upstream_id="u-books")
    await world.journal.opens.put(row)
    world.engine.wrote(f"{row.request_id}-1", USAGE)
    await world.round()
    assert await world.platform() == {}
    await world.journal.settlements.put(a_settlement(row, Usage(30, 10, 5, 0), state="recovered"))
    await world.round()
    assert await world.platform() == {f"{row.request_id}-1": ("uncollected", 0, 2)}
    assert await world.codes() == []


async def test_engine_that_does_not_answer_is_read_on_later_and_a_page_read_twice_counts_once(world: World) -> None:
    rows = [await world.exchange(USAGE) for _ in range(7)]
    for row in rows:
        world.engine.wrote(f"{row.request_id}-1", USAGE)
    await world.round()
    await world.database.execute("UPDATE witness_cursor SET next = 0")
    world.engine.answers = False
    await world.round()
    world.engine.answers = True
    await world.round()
    assert await world.database.fetchval("SELECT count(*) FROM witness_record") == 7
    assert (await world.reconcile()).witness == Usage(210, 70, 49, 14, 28)


async def test_more_booked_than_worked_is_found(world: World) -> None:
    row = await world.exchange(USAGE)
    world.engine.wrote(f"{row.request_id}-1", replace(USAGE, completion=6))
    await world.round()
    assert await world.codes() == ["booked_above_witness", "sums_differ"]


async def test_charge_without_a_record_is_found(world: World) -> None:
    first = await world.exchange(USAGE)
    world.engine.wrote(f"{first.request_id}-1", USAGE)
    await world.exchange(USAGE)
    await world.round()
    assert await world.codes() == ["witness_missing"]


async def test_tampered_ledger_is_found(world: World) -> None:
    row = await world.exchange(USAGE)
    world.engine.wrote(f"{row.request_id}-1", USAGE)
    await world.round()
    owner = await asyncpg.connect(world.dsn)
    await owner.execute("ALTER TABLE ledger_entry DISABLE TRIGGER ledger_keep")
    await owner.execute("UPDATE ledger_entry SET debit = debit + 1 WHERE debit > 0 AND kind = 'output'")
    await owner.close()
    assert await world.codes() == ["unbalanced", "ledger_differs"]


async def test_row_that_nobody_ends_is_found(world: World) -> None:
    await world.journal.opens.put(an_open_row("t-1", upstream_id="u-books"))
    assert await world.codes() == ["unfinished"]


async def test_night_is_reconciled_once_and_never_before_three(world: World) -> None:
    row = await world.exchange(USAGE)
    world.engine.wrote(f"{row.request_id}-1", replace(USAGE, completion=6))
    await world.round()
    early = DAY.replace(hour=17, minute=59)  # 02:59 of the day after in Tokyo
    assert await world.books.nightly(early) == []
    (found,) = await world.books.nightly(early + timedelta(minutes=2))
    assert [finding.code for finding in found.findings] == ["booked_above_witness", "sums_differ"]
    assert await world.books.nightly(early + timedelta(hours=2)) == []
    run = await world.database.fetchrow("SELECT day, findings FROM reconcile_run")
    assert run["findings"] == 2


async def test_days_on_which_no_worker_ran_are_reconciled_afterwards(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    night = DAY.replace(hour=18, minute=1)
    await world.books.nightly(night)
    row = await world.exchange(USAGE)  # of the day after that which was reconciled
    await world.round()
    found = await world.books.nightly(night + timedelta(days=3))
    assert [len(day.findings) for day in found] == [0, 0, 0]
    assert [day.start for day in found] == [found[0].start + timedelta(days=n) for n in range(3)]
    days = await world.database.fetch("SELECT day FROM reconcile_run ORDER BY day")
    assert [(one["day"] - days[0]["day"]).days for one in days] == [0, 1, 2, 3]
    assert await world.books.nightly(night + timedelta(days=40)) != []
    assert "were never reconciled" in caplog.text
    assert row.request_id


async def test_records_that_cannot_be_judged_yet_keep_no_other_from_its_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnessed, "JUDGED_ROWS_MAX", 2)
    for _ in range(3):  # their rows are still to come
        world.engine.wrote(f"{uuid_utils.uuid7()}-1", USAGE)
    await world.books.read()
    row = await world.exchange(USAGE)
    world.engine.wrote(f"{row.request_id}-1", replace(USAGE, completion=9))
    await world.books.read()
    assert await witnessed.judge(world.database) == 1
    assert set(await world.platform()) == {f"{row.request_id}-1"}


async def test_command_says_what_it_found(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    row = await world.exchange(USAGE)
    world.engine.wrote(f"{row.request_id}-1", USAGE)
    await world.round()
    day = DAY.date()
    span = ((day - timedelta(days=1)).isoformat(), (day + timedelta(days=2)).isoformat())
    assert await reconcile_command(world.dsn, *span) == 0
    assert "0 findings" in capsys.readouterr().out
    await world.exchange(USAGE)
    assert await reconcile_command(world.dsn, *span) == 1
    assert "witness_missing: 1:" in capsys.readouterr().out
    assert await reconcile_command(world.dsn, span[1], span[0]) == 2
    assert await reconcile_command(world.dsn, "yesterday", None) == 2


def drawn(chance: random.Random) -> Usage:
    prompt, completion = chance.randrange(1, 500), chance.randrange(300)
    image = chance.randrange(prompt)
    return Usage(
        prompt, chance.randrange(prompt), completion, chance.randrange(completion + 1), image,
        chance.randrange(prompt - image),
    )  # fmt: skip


async def test_exchanges_of_every_kind_add_up(world: World) -> None:
    chance = random.Random(4)
    for number in range(250):
        recorded = drawn(chance)
        file = chance.choice(["a.jsonl", "b.jsonl"])
        kind = chance.choice(["exact", "exact", "gone", "retried", "voided", "probe"])
        attempt = 2 if kind == "retried" else 1
        attempt_id = f"probe-{number}"
        if kind == "voided":
            row = await world.exchange(Usage(), state="voided", source="none", lines=(), first_byte_at=None)
        elif kind == "gone":
            row = await world.exchange(Usage(recorded.prompt, 0, chance.randrange(recorded.completion + 1), 0))
        elif kind != "probe":
            row = await world.exchange(recorded, attempt=attempt)
        if kind != "probe":
            attempt_id = f"{row.request_id}-{attempt}"
        world.engine.wrote(attempt_id, recorded, file)
        if kind == "retried":
            world.engine.wrote(f"{row.request_id}-1", drawn(chance), file)
    world.engine.page_rows = 50
    await world.round()
    found = await world.reconcile()
    assert found.findings == ()
    assert min(astuple(found.platform)) > 0
    assert found.witness == plus(found.tenants, found.platform)
