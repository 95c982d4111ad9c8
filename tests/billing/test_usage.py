"""Usage figures: in the tenant's zone, from the journal, the same in every grouping and as CSV."""

import csv
import io
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import combinations
from random import Random
from typing import Any

import asyncpg
import pytest

from billing import usage as module
from billing.journal import Journal
from billing.link import Link
from billing.platform_usage import platform_usage
from billing.types import Outcome, Usage
from billing.usage import FILTERS, GROUPS, MEASURES, TOKENS, TooManyRows, UsageQuery, statement, usage
from billing.usage_csv import usage_csv
from tests.billing.rows import NOW, a_settlement, an_open_row
from tests.conftest import Stores, a_tenant

DAY = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
HOUR_US = 3_600_000_000


async def booked(stores: Stores, tenant_id: str) -> None:
    journal = Journal(stores.dsn)
    for model, key, hour in (("a", "k1", 0), ("a", "k2", 0), ("b", "k1", 1)):
        row = an_open_row(tenant_id, model=model, key_id=key, project_id=f"p-{model}")
        await journal.opens.put(row)
        await journal.settlements.put(a_settlement(row, Usage(10, 4, 5, 0), settled_at=NOW + hour * HOUR_US))
    await journal.opens.put(an_open_row(tenant_id))  # still under way: not usage yet
    await journal.close()


def a_query(tenant_id: str, *groups: str, zone: str = "Asia/Tokyo", where: Mapping[str, str] | None = None) -> Any:
    return UsageQuery((tenant_id,), *DAY, zone, groups, where or {})


def added(rows: Any, name: str) -> int:
    return sum(int(row[name]) for row in rows)


async def test_totals_are_the_sum_of_the_rows_in_every_grouping(stores: Stores, database: Any) -> None:
    mine, other = a_tenant().tenant_id, a_tenant().tenant_id
    await booked(stores, mine)
    await booked(stores, other)
    totals = {"requests": 3, "prompt_tokens": 30, "cached_tokens": 12, "image_tokens": 0, "audio_tokens": 0,
              "completion_tokens": 15, "reasoning_tokens": 0,
              "micro_yen": 3 * (6 * 120 + 4 * 60 + 5 * 480)}  # fmt: skip
    for groups, rows in (([], 0), (["model"], 2), (["key"], 2), (["hour"], 2), (["day"], 1), (["month"], 1),
                         (["outcome"], 1), (["project"], 2), (["tenant"], 1), (["model", "key"], 3)):  # fmt: skip
        answer = await usage(database, a_query(mine, *groups))
        assert answer["totals"] == totals
        assert len(answer["rows"]) == rows
        assert all(list(row) == [*groups, *MEASURES] for row in answer["rows"])


async def test_times_are_those_of_the_zone(stores: Stores, database: Any) -> None:
    mine = a_tenant().tenant_id
    await booked(stores, mine)
    told = {}
    for zone in ("UTC", "Asia/Tokyo", "Pacific/Kiritimati"):
        answer = await usage(database, a_query(mine, "month", "day", "hour", zone=zone))
        told[zone] = [(row["month"], row["day"], row["hour"]) for row in answer["rows"]]
    assert told == {
        "UTC": [("2026-11", "2026-11-24", "2026-11-24T03:00"), ("2026-11", "2026-11-24", "2026-11-24T04:00")],
        "Asia/Tokyo": [("2026-11", "2026-11-24", "2026-11-24T12:00"), ("2026-11", "2026-11-24", "2026-11-24T13:00")],
        "Pacific/Kiritimati": [
            ("2026-11", "2026-11-24", "2026-11-24T17:00"), ("2026-11", "2026-11-24", "2026-11-24T18:00"),
        ],
    }  # fmt: skip


async def test_row_counts_when_it_is_booked_and_not_when_it_was_settled(stores: Stores, database: Any) -> None:
    mine = a_tenant().tenant_id
    await late_fact(stores, mine)
    november = await usage(database, a_query(mine, "day"))
    december = await usage(database, UsageQuery((mine,), DAY[1], datetime(2027, 1, 1, tzinfo=UTC), "UTC", ["day"]))
    assert november["totals"]["requests"] == 0
    assert [(row["day"], row["requests"]) for row in december["rows"]] == [("2026-12-01", 1)]


async def late_fact(stores: Stores, tenant_id: str) -> None:
    """A request settled in November whose November was closed before it was booked."""
    link = Link(stores.dsn)
    await link.fetch(
        "INSERT INTO journal (request_id, tenant_id, key_id, model, action, epoch, instance_id, state, outcome,"
        " opened_at, settled_at, booked_at) VALUES ($1::text::uuid, $2, 'k', 'a', 'chat', 1, 'test', 'settled',"
        " 'completed', $3, $3, $4)",
        an_open_row(tenant_id).request_id, tenant_id, datetime(2026, 11, 30, 23, tzinfo=UTC), DAY[1],
    )  # fmt: skip
    await link.close()


async def test_filters_narrow_and_names_asked_for_in_vain_are_no_models(stores: Stores, database: Any) -> None:
    mine = a_tenant().tenant_id
    await booked(stores, mine)
    for where, requests in (({"model": "a"}, 2), ({"key": "k1"}, 2), ({"model": "a", "key": "k1"}, 1),
                            ({"project": "p-b"}, 1), ({"outcome": "completed"}, 3), ({"outcome": "revoked"}, 0),
                            ({"model": "a' OR 1=1 --"}, 0)):  # fmt: skip
        answer = await usage(database, a_query(mine, "model", where=where))
        assert answer["totals"]["requests"] == requests == added(answer["rows"], "requests")


async def test_by_kind_every_token_and_micro_yen_is_in_exactly_one_row(stores: Stores, database: Any) -> None:
    mine, random = a_tenant().tenant_id, Random(4)
    await varied(stores, mine, random, 60)
    whole = (await usage(database, a_query(mine)))["totals"]
    assert whole["requests"] == 60
    for others in ((), ("model",), ("hour", "outcome"), ("project", "key")):
        answer = await usage(database, a_query(mine, "kind", *others))
        assert answer["totals"] == whole
        assert added(answer["rows"], "micro_yen") == whole["micro_yen"]
        assert added(answer["rows"], "quantity") == whole["prompt_tokens"] + whole["completion_tokens"]
    by_kind = {row["kind"]: row for row in (await usage(database, a_query(mine, "kind")))["rows"]}
    assert set(by_kind) == {"", "input", "cached_input", "output"}
    assert by_kind["cached_input"]["quantity"] == whole["cached_tokens"]
    assert by_kind["output"]["quantity"] == whole["completion_tokens"]
    assert (by_kind[""]["quantity"], by_kind[""]["micro_yen"]) == (0, 0)


async def varied(stores: Stores, tenant_id: str, random: Random, n: int) -> None:
    """`n` requests of several models, keys and outcomes; some cost nothing."""
    journal = Journal(stores.dsn)
    for number in range(n):
        row = an_open_row(tenant_id, model=random.choice("abc"), key_id=random.choice(("k1", "k2")),
                          project_id=random.choice(("", "p1")))  # fmt: skip
        prompt, outcome = random.randrange(1, 500), random.choice((Outcome.COMPLETED, Outcome.CLIENT_GONE))
        used = Usage() if number % 9 == 0 else Usage(prompt, random.randrange(prompt), random.randrange(1, 300), 0)
        await journal.opens.put(row)
        await journal.settlements.put(
            a_settlement(row, used, outcome=outcome, settled_at=NOW + random.randrange(50) * HOUR_US)
        )
    await journal.close()


async def test_csv_says_the_same_as_the_answer_in_every_grouping(stores: Stores, database: Any) -> None:
    mine = a_tenant().tenant_id
    await varied(stores, mine, Random(5), 40)
    for groups in ((), *((group,) for group in GROUPS), *combinations(("model", "kind", "day"), 2)):
        query = a_query(mine, *groups)
        answer = await usage(database, query)
        lines = list(csv.DictReader(io.StringIO(usage_csv(query, answer).decode(), newline="")))
        expected = answer["rows"] if groups else [answer["totals"]]
        assert lines == [{name: str(value) for name, value in row.items()} for row in expected]
        assert added(lines, "micro_yen") == answer["totals"]["micro_yen"]


@pytest.mark.parametrize("text", ["=HYPERLINK(0)", " +1", "@a", "-2+3", "＝1", "\t=1"])
def test_cell_that_a_spreadsheet_takes_for_a_formula_is_text(text: str) -> None:
    rows = [{**dict.fromkeys(MEASURES, -1), "model": model} for model in (text, "plain-model")]
    lines = list(csv.reader(io.StringIO(usage_csv(a_query("t", "model"), {"rows": rows}).decode(), newline="")))
    assert [line[:2] for line in lines[1:]] == [[f"'{text}", "-1"], ["plain-model", "-1"]]


async def test_answer_is_bounded_and_says_so(stores: Stores, database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = a_tenant().tenant_id
    await booked(stores, mine)
    monkeypatch.setattr(module, "ROWS_MAX", 2)
    assert len((await usage(database, a_query(mine, "model")))["rows"]) == 2
    with pytest.raises(TooManyRows):
        await usage(database, a_query(mine, "model", "key"))


@pytest.mark.parametrize(("groups", "where"), [(["tenant_id; drop"], {}), ([], {"1=1) --": "x"})])
def test_unknown_name_is_refused(groups: list[str], where: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="unknown name"):
        a_query("t", *groups, where=where)


_MANY = """
INSERT INTO journal (request_id, tenant_id, key_id, model, action, epoch, instance_id, state, outcome, prompt_tokens,
  opened_at, settled_at, booked_at)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || substr(md5(n::text), 1, 20))::uuid,
  'many-' || (n % 20), 'k' || (n % 7), 'm' || (n % 3), 'chat', 1, 'test', 'settled', 'completed', 1, at, at, at
FROM (SELECT n, timestamptz '2026-11-01' + n * interval '25 seconds' AS at FROM generate_series(1, 100000) n) many
"""


async def test_of_a_hundred_thousand_rows_only_those_of_the_span_are_read(stores: Stores) -> None:
    connection = await asyncpg.connect(stores.dsn)
    transaction = connection.transaction()
    await transaction.start()  # and undone: nobody else's book holds them
    await connection.execute(_MANY)
    await connection.execute("ANALYZE journal")
    day = (datetime(2026, 11, 10, tzinfo=UTC), datetime(2026, 11, 11, tzinfo=UTC))
    for groups in ((), ("model", "key"), ("hour",), ("kind",)):
        text, arguments = statement(UsageQuery(("many-0",), *day, "UTC", groups))
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF) {text}", *arguments))
        read = re.search(r"Scan (?:using|on) journal_202611\w*_booked_at_idx.*actual rows=(\d+)", plan)
        assert read is not None and "Seq Scan on journal_202611" not in plan, plan
        assert int(read[1]) == 172, plan  # a day's 3,456 rows over 20 tenants
    await transaction.rollback()
    await connection.close()


async def test_platform_account_is_told_by_reason_and_model(database: Any) -> None:
    mine = a_tenant().tenant_id  # a model of no other test
    for number, reason in enumerate(("probe", "probe", "uncollected")):
        await database.execute(
            "INSERT INTO platform_usage (attempt_id, upstream_id, model, reason, prompt_tokens, cached_tokens,"
            " image_tokens, audio_tokens, completion_tokens, reasoning_tokens, ended_at, created_at)"
            " VALUES ($1, 'u', $2, $3, 10, 4, 2, 1, 5, 3, $4, $4)",
            f"{mine}-{number}", mine, reason, datetime(2026, 11, 5, number, tzinfo=UTC),
        )  # fmt: skip
    told = await platform_usage(database, UsageQuery(None, *DAY, "UTC", ["hour", "key"], {"model": mine}))
    assert [(row["reason"], row["hour"][11:13], row["attempts"]) for row in told["rows"]] == [
        ("probe", "00", 1), ("probe", "01", 1), ("uncollected", "02", 1),
    ]  # fmt: skip
    once = dict(zip(TOKENS, (10, 4, 2, 1, 5, 3), strict=True))
    assert told["totals"] == {"attempts": 3, **{name: 3 * once[name] for name in TOKENS}}
    assert set(FILTERS) >= {"model"}
