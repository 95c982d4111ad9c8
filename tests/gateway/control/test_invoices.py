"""Invoices on the admin plane and the command line: preview, close, look up, export, credit, rate again."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from billing.invoices import refused, service
from gateway.control import invoices, printed
from gateway.control.billing_refusals import fault_of
from tests.conftest import Stores
from tests.gateway.control.admin import Administration, tenant_body
from tests.gateway.control.billed import PERIOD, Billed
from tests.gateway.control.test_commands import Sekisho, sekisho

__all__ = ["sekisho"]  # the fixture
FORMATS = {"json": b'{"corrects"', "csv": b"\xef\xbb\xbfnumber,", "pdf": b"%PDF-", "pint": b"<?xml", "focus": b"Avail"}


@pytest_asyncio.fixture
async def billed(admin: Administration, stores: Stores) -> Billed:
    """A tenant whose month is over and not closed."""
    return await Billed.made(admin, stores)


def path_of(billed: Billed, act: str) -> str:
    return f"/tenants/{billed.tenant}/invoices/{PERIOD}/{act}"


async def closed(admin: Administration, billed: Billed) -> dict[str, Any]:
    head: dict[str, Any] = await admin.root.good("POST", path_of(billed, "close"))
    return head


async def test_preview_becomes_the_invoice_and_the_invoice_does_not_change(
    admin: Administration, billed: Billed
) -> None:
    draft = await admin.root.good("GET", path_of(billed, "preview"))
    assert (draft["state"], draft["number"], draft["recipient"]["name"]) == ("draft", "", billed.name)
    head = await closed(admin, billed)
    document = await admin.root.good("GET", f"/invoices/{head['number']}")
    assert document["state"] == "closed" and document["lines"]
    for field in ("lines", "taxes", "subtotal_yen", "tax_yen", "total_yen", "payable_yen", "issuer", "recipient"):
        assert document[field] == draft[field], field
    assert await admin.root.good("GET", path_of(billed, "preview")) == document
    status, error = await admin.root.error("POST", path_of(billed, "close"))
    assert (status, error["code"], error["param"]) == (409, "period_closed", "period")


@pytest.mark.parametrize(
    ("period", "status", "code"),
    [
        ("2026-1", 400, "period_invalid"),
        ("2099-01", 409, "period_out_of_order"),
        ("2026-02", 409, "period_out_of_order"),
    ],
)
async def test_month_that_cannot_be_closed_says_why(
    admin: Administration, billed: Billed, period: str, status: int, code: str
) -> None:
    for language in ("en", "ja"):
        found = await admin.root.error("POST", f"/tenants/{billed.tenant}/invoices/{period}/close", language=language)
        assert (found[0], found[1]["code"], found[1]["param"]) == (status, code, "period")
        assert found[1]["cure"]


def test_every_refusal_of_a_document_has_its_fault() -> None:
    codes = re.findall(r"^([a-z_]+)  +\S", refused.__doc__ or "", re.MULTILINE)
    assert len(codes) >= 16
    for code in codes:
        fault = fault_of(refused.InvoiceRefused(code, "field", "what is wrong"))
        assert fault.code.name in (code, "object_not_found") and fault.param == "field"


async def test_running_month_is_previewed_and_not_closed(admin: Administration, tenant: str) -> None:
    period = datetime.now(UTC).strftime("%Y-%m")
    draft = await admin.root.good("GET", f"/tenants/{tenant}/invoices/{period}/preview")
    assert (draft["state"], draft["lines"], draft["payable_yen"]) == ("draft", [], 0)
    status, error = await admin.root.error("POST", f"/tenants/{tenant}/invoices/{period}/close")
    assert (status, error["code"]) == (409, "period_not_over")


@pytest.mark.parametrize("form", FORMATS)
async def test_document_is_written_in_every_format(admin: Administration, billed: Billed, form: str) -> None:
    number = (await closed(admin, billed))["number"]
    response = await admin.root.ask("GET", f"/invoices/{number}", params={"format": form, "lang": "ja"})
    assert response.status_code == 200, response.text
    assert response.content.startswith(FORMATS[form])
    assert number in response.headers["content-disposition"]


async def test_draft_that_a_format_cannot_hold_is_refused_with_the_field(admin: Administration, billed: Billed) -> None:
    status, error = await admin.root.error("GET", path_of(billed, "preview"), params={"format": "pint"})
    assert (status, error["code"]) == (422, "invoice_not_exportable") and error["param"]


async def test_too_many_documents_at_once_are_put_off(
    admin: Administration, billed: Billed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printed, "WAIT_S_MAX", 0.01)
    for _ in range(printed.AT_ONCE_MAX):
        await printed._slots.acquire()
    try:
        response = await admin.root.ask("GET", path_of(billed, "preview"))
    finally:
        for _ in range(printed.AT_ONCE_MAX):
            printed._slots.release()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "printer_busy")
    assert response.headers["retry-after"]
    assert (await admin.root.ask("GET", path_of(billed, "preview"))).status_code == 200


async def test_documents_are_found_by_day_amount_and_counterparty_in_any_combination(
    admin: Administration, billed: Billed
) -> None:
    head = await closed(admin, billed)
    day, yen = head["issued_on"], head["total_yen"]
    good: dict[str, Any] = {"issued_from": day, "issued_to": day, "min_yen": yen, "max_yen": yen,
                            "counterparty": billed.tenant, "tenant": billed.tenant, "period": PERIOD}  # fmt: skip
    bad: dict[str, Any] = {"issued_from": "2099-01-01", "issued_to": "2000-01-01", "min_yen": yen + 1,
                           "max_yen": yen - 1, "counterparty": "no such name", "period": "2025-12"}  # fmt: skip
    # Only what no other test has too is looked for: the counterparty or the tenant is always among the conditions.
    for names in (("counterparty",), ("counterparty", "issued_from"), ("tenant", "min_yen", "max_yen"), tuple(good)):
        found = await admin.root.good("GET", "/invoices", params={name: good[name] for name in names})
        assert [row["number"] for row in found["data"]] == [head["number"]], names
    for name, value in bad.items():
        asked = {"tenant": billed.tenant, "period": PERIOD, name: value}
        assert (await admin.root.good("GET", "/invoices", params=asked))["data"] == [], asked


@pytest.mark.parametrize(
    ("query", "param"),
    [({"issued_from": "2026-13-01"}, "issued_from"), ({"issued_to": "1767225600"}, "issued_to"),
     ({"issued_from": "2026-02-01", "issued_to": "2026-01-01"}, "issued_to"), ({"min_yen": "-1"}, "min_yen"),
     ({"min_yen": "2", "max_yen": "1"}, "max_yen"), ({"period": "2026-13"}, "period"), ({"colour": "1"}, "colour"),
     ({"counterparty": "a\0"}, "counterparty")],
)  # fmt: skip
async def test_search_that_does_not_fit_is_named(admin: Administration, query: dict[str, str], param: str) -> None:
    status, error = await admin.root.error("GET", "/invoices", params=query)
    assert (status, error["param"]) == (400, param)


async def test_search_that_finds_too_much_is_refused(
    admin: Administration, billed: Billed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await closed(admin, billed)
    monkeypatch.setattr(invoices, "FIND_MAX", 1)
    status, error = await admin.root.error("GET", "/invoices", params={"tenant": billed.tenant})
    assert (status, error["code"]) == (400, "too_many_rows")


async def test_closing_seals_the_month_before_it_calculates(
    admin: Administration, billed: Billed, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    async def watched(connection: Any, *arguments: Any) -> Any:
        seen.append(connection.is_in_transaction())  # within one, settlement would wait for the whole calculation
        return await close(connection, *arguments)

    close = service.close
    monkeypatch.setattr(service, "close", watched)
    await closed(admin, billed)
    assert seen == [False]


async def test_credit_note_gives_back_lines_and_then_the_rest_and_then_nothing(
    admin: Administration, billed: Billed
) -> None:
    head = await closed(admin, billed)
    path = f"/invoices/{head['number']}/credit"
    lines = (await admin.root.good("GET", f"/invoices/{head['number']}"))["lines"]
    part = await admin.root.good("POST", path, {"reason": "double delivery", "lines": [{"line": 1, "yen": 10}]})
    assert (part["kind"], part["corrects"], part["subtotal_yen"], part["tax_yen"]) == (
        "credit_note", head["number"], 10, 1,
    )  # fmt: skip
    rest = await admin.root.good("POST", path, {"reason": "all of it"})
    assert rest["subtotal_yen"] == sum(line["yen"] for line in lines) - 10
    for body, status, code in (
        ({"reason": "again"}, 409, "nothing_left"),
        ({"reason": "more", "lines": [{"line": 1, "yen": 1}]}, 400, "amount_invalid"),
        ({"reason": "x", "lines": [{"line": 99, "yen": 1}]}, 400, "line_not_found"),
        ({"reason": " "}, 400, "reason_missing"),
        ({"reason": "x", "lines": [{"line": 1, "yen": 1}] * 2}, 400, "invalid_value"),
        ({"lines": []}, 400, "missing_parameter"),
    ):
        found = await admin.root.error("POST", path, body)
        assert (found[0], found[1]["code"]) == (status, code)
    status, error = await admin.root.error("POST", f"/invoices/{part['number']}/credit", {"reason": "x"})
    assert (status, error["code"]) == (409, "not_an_invoice")


async def test_tax_log_tells_who_closed_and_who_credited_and_so_does_the_administration_log(
    admin: Administration, billed: Billed, database: Any
) -> None:
    clerk = await admin.somebody("billing")
    key_id = (await clerk.good("GET", "/whoami"))["key_id"]
    head = await clerk.good("POST", path_of(billed, "close"))
    note = await clerk.good("POST", f"/invoices/{head['number']}/credit", {"reason": "agreed"})
    rows = await database.fetch(
        "SELECT log, record FROM audit_pending WHERE tenant_id = $1 AND log <> 'requests'"
        " AND record::jsonb->>'object' = ANY($2) ORDER BY id",
        billed.tenant, [head["number"], note["number"]],
    )  # fmt: skip
    told = {(row["log"], record["object"]): record for row in rows for record in [json.loads(row["record"])]}
    assert len(told) == len(rows) == 4
    assert {record["actor"]["key_id"] for record in told.values()} == {key_id}
    assert told["administration", head["number"]]["verb"] == "api:invoice:close"
    assert told["administration", note["number"]]["verb"] == "api:invoice:credit"
    assert told["tax", head["number"]]["total_yen"] == head["total_yen"]


async def test_nobody_reaches_a_foreign_tenants_documents(
    admin: Administration, billed: Billed, stores: Stores
) -> None:
    other = await Billed.made(admin, stores, 2)
    head, foreign = await closed(admin, billed), await closed(admin, other)
    engineer = await admin.somebody("si_engineer", billed.tenant)
    assert [row["number"] for row in (await engineer.good("GET", "/invoices"))["data"]] == [head["number"]]
    assert (await engineer.error("GET", "/invoices", params={"tenant": other.tenant}))[0] == 404
    assert (await engineer.good("GET", "/invoices", params={"counterparty": other.tenant}))["data"] == []
    for path in ("/invoices/{}", "/invoices/{}/rerate"):
        answers = []
        for number in (foreign["number"], "INV-2026-999999"):
            status, error = await engineer.error("GET", path.format(number))
            del error["request_id"]
            answers.append((status, json.dumps(error).replace(number, "NUMBER")))
        assert answers[0] == answers[1] and answers[0][0] == 404


async def test_clerk_closes_a_month_from_the_command_line(
    sekisho: Sekisho, admin: Administration, billed: Billed, tmp_path: Path
) -> None:
    tenant = ("--tenant", billed.tenant)
    code, out, _ = await sekisho("invoice", "preview", PERIOD, *tenant)
    assert code == 0 and out.startswith("invoice (draft), 2026-01-01 – 2026-01-31 (Asia/Tokyo)\n")
    payable = out.splitlines()[-1]
    assert (await sekisho("invoice", "close", "2026-02", *tenant))[:2] == (1, "period_out_of_order\n")
    code, out, _ = await sekisho("invoice", "close", PERIOD, *tenant)
    number = out.strip()
    assert (code, (await sekisho("invoice", "show", number))[1].splitlines()[-1]) == (0, payable)
    folder = tmp_path / "out"
    code, out, _ = await sekisho("invoice", "export", *tenant, "--min-yen", 1, "--format", "pdf", "--out", folder)
    assert (code, out) == (0, f"{number}.pdf\n") and (folder / f"{number}.pdf").read_bytes().startswith(b"%PDF-")
    for form, start in FORMATS.items():
        file = tmp_path / form
        assert (await sekisho("invoice", "export", number, "--format", form, "--out", file))[0] == 0
        assert file.read_bytes().startswith(start)
    code, out, _ = await sekisho("invoice", "rerate", number)
    assert (code, out.split()[0]) == (0, "identical")
    code, out, _ = await sekisho("invoice", "credit", number, "--reason", "agreed", "--line", "1=5")
    note = out.strip()
    assert code == 0 and note in (await sekisho("invoice", "list", *tenant))[1]
    assert (await sekisho("invoice", "rerate", note))[:2] == (1, "not_an_invoice\n")
    assert (await sekisho("invoice", "show", "INV-0"))[:2] == (1, "object_not_found\n")
    assert (await sekisho("invoice", "export", *tenant))[0] == 2
    assert (await sekisho("invoice", "export", number, *tenant))[0] == 2


async def test_month_that_comes_out_otherwise_is_a_finding(
    sekisho: Sekisho, admin: Administration, billed: Billed, stores: Stores
) -> None:
    number = (await closed(admin, billed))["number"]
    owner = await asyncpg.connect(stores.dsn)
    await owner.execute("ALTER TABLE journal DISABLE TRIGGER journal_forward")
    await owner.execute(
        "UPDATE journal SET completion_tokens = completion_tokens + 1000000 WHERE request_id ="
        " (SELECT request_id FROM journal WHERE tenant_id = $1 LIMIT 1)",
        billed.tenant,
    )
    await owner.execute("ALTER TABLE journal ENABLE TRIGGER journal_forward")
    await owner.close()
    code, out, err = await sekisho("invoice", "rerate", number)
    assert (code, out) == (1, "invoice_differs\n") and number in err


async def test_month_before_the_tenant_was_entered_or_charged_is_not_closed(
    admin: Administration, billed: Billed
) -> None:
    for period in ("2006-10", "2025-12"):
        status, error = await admin.root.error("POST", f"/tenants/{billed.tenant}/invoices/{period}/close")
        assert (status, error["code"]) == (409, "period_out_of_order")
        assert PERIOD in error["message"]
    await closed(admin, billed)
    empty = (await admin.root.good("POST", "/tenants", tenant_body()))["tenant_id"]
    await admin.root.good("POST", f"/tenants/{empty}/billing-party", {"issuer_id": billed.issuer, "name": "例"})
    status, error = await admin.root.error("POST", f"/tenants/{empty}/invoices/2006-10/close")
    assert (status, error["code"]) == (409, "period_out_of_order")


async def test_reason_of_a_credit_note_may_be_long(admin: Administration, billed: Billed) -> None:
    number = (await closed(admin, billed))["number"]
    for chars, status in ((1_001, 400), (1_000, 201)):
        answer = await admin.root.ask("POST", f"/invoices/{number}/credit", {"reason": "訂" * chars})
        assert answer.status_code in (status, 200 if status == 201 else status), answer.text


async def test_invoice_without_a_recipients_name_is_not_closed(
    admin: Administration, billed: Billed, database: Any
) -> None:
    await database.execute("UPDATE billing_party SET name = '  ' WHERE tenant_id = $1", billed.tenant)
    status, error = await admin.root.error("POST", path_of(billed, "close"))
    assert (status, error["code"]) == (409, "recipient_missing")
