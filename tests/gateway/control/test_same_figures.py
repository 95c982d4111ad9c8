"""The tenant's page, the admin plane, CSV, the invoice and FOCUS: one month, the same tokens, the same money."""

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest_asyncio

from gateway.edge.exchange import Exchange
from gateway.edge.queries import Queries
from gateway.edge.usage import usage_answer
from gateway.limits.levels import Limits
from gateway.tenancy.snapshot import Tenant
from tests.conftest import Stores
from tests.gateway.control.admin import Administration
from tests.gateway.control.billed import PERIOD, SPAN, Billed

Figures = dict[str, tuple[int, int]]
"""Tokens and micro-yen by kind."""


@pytest_asyncio.fixture
async def billed(admin: Administration, stores: Stores) -> Billed:
    """A month of requests, the first and the last at its very edges."""
    return await Billed.made(admin, stores, 60)


async def own_page(stores: Stores, billed: Billed, **parameters: str) -> bytes:
    """What the tenant itself is answered to `GET /v1/usage`."""
    exchange = Exchange("usage", "test", tenant=Tenant(billed.tenant, "Asia/Tokyo", Limits(1, 1, 1, 1)))
    queries = Queries(stores.dsn)
    document = await usage_answer(queries, exchange, {**SPAN, **parameters}, "", datetime.now(UTC))
    await queries.close()
    return document.body


def by_kind(rows: Any, kind: str, quantity: str, micro_yen: Any) -> Figures:
    return {row[kind]: (int(Decimal(row[quantity])), int(micro_yen(row))) for row in rows}


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


async def test_page_admin_csv_invoice_and_focus_tell_the_same(
    admin: Administration, stores: Stores, billed: Billed
) -> None:
    grouped = {**SPAN, "group_by": "kind"}

    def money(row: Any) -> Any:
        return row["micro_yen"]

    page = msgspec.json.decode(await own_page(stores, billed, group_by="kind"))
    told: dict[str, Figures] = {
        "page": by_kind(page["rows"], "kind", "quantity", money),
        "page as CSV": by_kind(
            lines_of((await own_page(stores, billed, group_by="kind", format="csv")).decode()),
            "kind",
            "quantity",
            money,
        ),
    }
    for path, params in (
        (f"/tenants/{billed.tenant}/usage", grouped),
        ("/usage", {**grouped, "tenant": billed.tenant}),
    ):
        answer = await admin.root.good("GET", path, params=params)
        assert answer["totals"] == page["totals"]
        told[path] = by_kind(answer["rows"], "kind", "quantity", money)
        text = (await admin.root.ask("GET", path, params={**params, "format": "csv"})).text
        told[f"{path} as CSV"] = by_kind(lines_of(text), "kind", "quantity", money)
    preview = f"/tenants/{billed.tenant}/invoices/{PERIOD}/preview"
    for state in ("preview", "closed"):
        document = await admin.root.good("GET", preview)
        told[state] = by_kind(document["lines"], "token_kind", "quantity", money)
        focus = lines_of((await admin.root.ask("GET", preview, params={"format": "focus"})).text)
        charged = [row for row in focus if row["ChargeCategory"] == "Usage"]
        told[f"{state} as FOCUS"] = by_kind(
            charged, "x_TokenKind", "ConsumedQuantity", lambda row: Decimal(row["ListCost"]) * 1_000_000
        )
        assert sum(Decimal(row["BilledCost"]) for row in focus) == document["payable_yen"]
        if state == "preview":
            await admin.root.good("POST", f"/tenants/{billed.tenant}/invoices/{PERIOD}/close")
    assert set(told["page"]) == {"input", "cached_input", "output"}
    for name, figures in told.items():
        assert figures == told["page"], name
    totals = page["totals"]
    assert sum(tokens for tokens, _ in told["page"].values()) == totals["prompt_tokens"] + totals["completion_tokens"]
    assert sum(micro_yen for _, micro_yen in told["page"].values()) == totals["micro_yen"] > 0
    assert totals["requests"] == 60


async def test_ledger_of_the_month_is_its_invoice_and_the_carried_fractions(
    admin: Administration, billed: Billed, database: Any
) -> None:
    used = (await admin.root.good("GET", f"/tenants/{billed.tenant}/usage", params=SPAN))["totals"]["micro_yen"]
    head = await admin.root.good("POST", f"/tenants/{billed.tenant}/invoices/{PERIOD}/close")
    document = await admin.root.good("GET", f"/invoices/{head['number']}")
    carried = sum(int(line["carried_out_micro_yen"]) for line in document["lines"])
    assert used == document["subtotal_yen"] * 1_000_000 + carried
    owed = await database.fetchval(
        "SELECT sum(debit - credit)::bigint FROM ledger_entry WHERE account = 'receivable:' || $1", billed.tenant
    )
    assert owed == document["payable_yen"] * 1_000_000 + carried
    # What closing has written is no usage: the page still says what it said.
    again = (await admin.root.good("GET", f"/tenants/{billed.tenant}/usage", params=SPAN))["totals"]["micro_yen"]
    assert again == used
