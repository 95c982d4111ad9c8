"""Usage on the admin plane: within reach only, the same figures in every form, bounded."""

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from billing import usage as query
from billing.journal import Journal
from billing.types import Usage
from tests.billing.rows import a_settlement, an_open_row
from tests.conftest import Stores
from tests.gateway.control.admin import Administration, tenant_body
from tests.gateway.control.test_commands import Sekisho, sekisho

__all__ = ["sekisho"]  # the fixture
MONTH = {"from": "2026-11-01", "to": "2026-12-01"}


async def used(stores: Stores, tenant_id: str, requests: int) -> None:
    """`requests` settled requests of 10 prompt tokens, 4 of them cached, and 5 completion tokens."""
    journal = Journal(stores.dsn)
    for number in range(requests):
        row = an_open_row(tenant_id, key_id=f"k{number % 2}")
        await journal.opens.put(row)
        await journal.settlements.put(a_settlement(row, Usage(10, 4, 5, 0)))
    await journal.close()


async def two_tenants(admin: Administration, stores: Stores) -> tuple[str, str]:
    """A tenant with two requests and one with three."""
    names = []
    for requests in (2, 3):
        names.append((await admin.root.good("POST", "/tenants", tenant_body()))["tenant_id"])
        await used(stores, names[-1], requests)
    return names[0], names[1]


async def test_engineer_sees_its_tenants_and_neither_others_nor_the_platform(
    admin: Administration, stores: Stores
) -> None:
    own, foreign = await two_tenants(admin, stores)
    engineer = await admin.somebody("si_engineer", own)
    answer = await engineer.good("GET", "/usage", params={**MONTH, "group_by": "tenant"})
    assert [(row["tenant"], row["requests"]) for row in answer["rows"]] == [(own, 2)]
    assert "platform" not in answer and foreign not in str(answer)
    absent = await engineer.error("GET", "/usage", params={"tenant": "no-such-tenant"})
    hidden = await engineer.error("GET", "/usage", params={"tenant": foreign})
    assert hidden[0] == absent[0] == 404
    assert hidden[1]["message"].replace(foreign, "") == absent[1]["message"].replace("no-such-tenant", "")


@pytest.mark.parametrize("role", ["billing", "auditor", "platform_admin"])
async def test_who_sees_every_tenant_sees_them_apart_and_the_platforms_account(
    admin: Administration, stores: Stores, role: str
) -> None:
    one, other = await two_tenants(admin, stores)
    somebody = await admin.somebody(role)
    answer = await somebody.good("GET", "/usage", params={**MONTH, "group_by": "tenant"})
    requests = {row["tenant"]: row["requests"] for row in answer["rows"]}
    assert (requests[one], requests[other]) == (2, 3)
    assert answer["totals"]["requests"] == sum(requests.values())
    assert set(answer["platform"]["totals"]) == {"attempts", *query.TOKENS}
    alone = await somebody.good("GET", "/usage", params={**MONTH, "tenant": one})
    assert alone["totals"]["requests"] == 2 and "platform" not in alone


async def test_platform_account_tells_the_reason(admin: Administration, database: Any, tenant: str) -> None:
    await database.execute(
        "INSERT INTO platform_usage (attempt_id, upstream_id, model, reason, prompt_tokens, cached_tokens,"
        " image_tokens, audio_tokens, completion_tokens, reasoning_tokens, ended_at, created_at)"
        " VALUES ($1, 'u', $1, 'superseded', 7, 0, 0, 0, 3, 0, $2, $2)",
        tenant, datetime(2026, 11, 5, tzinfo=UTC),
    )  # fmt: skip
    answer = await admin.root.good("GET", "/usage", params={**MONTH, "model": tenant, "group_by": "day"})
    (row,) = answer["platform"]["rows"]
    assert (row["reason"], row["day"], row["attempts"], row["prompt_tokens"]) == ("superseded", "2026-11-05", 1, 7)


@pytest.mark.parametrize("asked", ["parameter", "header"])
async def test_csv_is_a_file_with_the_figures_of_the_answer(admin: Administration, stores: Stores, asked: str) -> None:
    one, _ = await two_tenants(admin, stores)
    params = {**MONTH, "tenant": one, "group_by": "key,kind", **({"format": "csv"} if asked == "parameter" else {})}
    headers = {"accept": "text/csv"} if asked == "header" else {}
    answer = await admin.root.good("GET", "/usage", params={**params, "format": "json"})
    response = await admin.root.ask("GET", "/usage", params=params, extra_headers=headers)
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="usage-20261101-20261201.csv"'
    lines = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert lines == [{name: str(value) for name, value in row.items()} for row in answer["rows"]]
    assert sum(int(line["quantity"]) for line in lines) == 30


async def test_too_many_rows_are_refused_and_not_cut_off(
    admin: Administration, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = await two_tenants(admin, stores)
    monkeypatch.setattr(query, "ROWS_MAX", 1)
    for path in ("/usage", f"/tenants/{one}/usage"):
        status, error = await admin.root.error("GET", path, params={**MONTH, "group_by": "key"})
        assert (status, error["code"], error["param"]) == (400, "too_many_rows", "group_by")
        assert error["cure"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"format": "xlsx"}, "format"), ({"outcome": "fun"}, "outcome"), ({"tenant": "A"}, "tenant"),
     ({"key": "a\0"}, "key"), ({"model": "x" * 201}, "model"), ({"group_by": "tenant,colour"}, "group_by")],
)  # fmt: skip
async def test_query_that_does_not_fit_is_named(admin: Administration, changes: dict[str, str], param: str) -> None:
    status, error = await admin.root.error("GET", "/usage", params=changes)
    assert (status, error["code"], error["param"]) == (400, "invalid_value", param)


async def test_command_prints_a_table_json_or_csv_of_one_tenant_or_all(
    sekisho: Sekisho, admin: Administration, stores: Stores
) -> None:
    one, other = await two_tenants(admin, stores)
    span = ("--from", "2026-11-01", "--to", "2026-12-01")
    code, out, _ = await sekisho("usage", "--tenant", one, *span, "--group-by", "kind")
    lines = [line.split() for line in out.splitlines()[1:]]
    assert code == 0
    assert lines[0] == ["kind", "requests", "quantity", "yen"]
    assert lines[-1] == ["total", "2", "30", "0.006720"]
    code, out, _ = await sekisho("usage", "--all", *span, "--group-by", "tenant", "--csv")
    rows = {row["tenant"]: row for row in csv.DictReader(io.StringIO(out, newline=""))}
    assert (code, rows[one]["requests"], rows[other]["requests"]) == (0, "2", "3")
    code, out, _ = await sekisho("usage", "--tenant", one, *span, "--key", "k1", "--json")
    assert (code, json.loads(out)["totals"]["requests"]) == (0, 1)
    assert (await sekisho("usage", "--tenant", one, "--group-by", "tenant"))[0] == 2
    assert (await sekisho("usage", "--tenant", "nobody", "--csv"))[:2] == (1, "object_not_found\n")
