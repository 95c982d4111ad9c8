"""Usage figures: one tenant's, in its zone, from the journal."""

from datetime import UTC, datetime
from typing import Any

import pytest

from billing.journal import Journal
from billing.types import Usage
from billing.usage import UsageQuery, usage
from tests.billing.rows import NOW, a_settlement, an_open_row
from tests.conftest import Stores, a_tenant

DAY = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


async def booked(stores: Stores, tenant_id: str) -> None:
    journal = Journal(stores.dsn)
    for model, key, hour in (("a", "k1", 0), ("a", "k2", 0), ("b", "k1", 1)):
        row = an_open_row(tenant_id, model=model, key_id=key)
        await journal.opens.put(row)
        settled_at = NOW + hour * 3_600_000_000
        await journal.settlements.put(a_settlement(row, Usage(10, 4, 5, 0), settled_at=settled_at))
    await journal.opens.put(an_open_row(tenant_id))  # still under way: not usage yet
    await journal.close()


async def test_totals_are_the_sum_of_the_rows_in_every_grouping(stores: Stores, database: Any) -> None:
    mine, other = a_tenant().tenant_id, a_tenant().tenant_id
    await booked(stores, mine)
    await booked(stores, other)
    totals = {"requests": 3, "prompt_tokens": 30, "cached_tokens": 12, "completion_tokens": 15,
              "micro_yen": 3 * (6 * 120 + 4 * 60 + 5 * 480)}  # fmt: skip
    for groups, rows in (([], 0), (["model"], 2), (["key"], 2), (["hour"], 2), (["outcome"], 1), (["model", "key"], 3)):
        answer: Any = await usage(database, UsageQuery(mine, *DAY, "Asia/Tokyo", groups))
        assert answer["totals"] == totals
        assert len(answer["rows"]) == rows
        assert all(group in row for row in answer["rows"] for group in groups)


async def test_hours_are_those_of_the_zone(stores: Stores, database: Any) -> None:
    mine = a_tenant().tenant_id
    await booked(stores, mine)
    hours = {}
    for zone in ("UTC", "Asia/Tokyo"):
        answer: Any = await usage(database, UsageQuery(mine, *DAY, zone, ["hour"]))
        hours[zone] = [row["hour"] for row in answer["rows"]]
    assert hours == {"UTC": ["2026-11-24T03:00", "2026-11-24T04:00"],
                     "Asia/Tokyo": ["2026-11-24T12:00", "2026-11-24T13:00"]}  # fmt: skip


def test_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match="tenant_id; drop"):
        UsageQuery("t", *DAY, "UTC", ["tenant_id; drop"])
