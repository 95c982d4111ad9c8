"""CSV and JSON: readable by their own standards, safe for spreadsheets, exact."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.exports import csv_file, json_file
from billing.invoices.types import Invoice
from tests.billing.exports.invoices import (
    ALL,
    BOTH_RATES,
    CREDIT_NOTE,
    ISSUER,
    ORDINARY,
    PREPAID,
    RECIPIENT,
    a_line,
    an_invoice,
)

SCHEMA = jsonschema_rs.validator_for(
    json.loads((Path(__file__).parents[3] / "docs" / "invoice.schema.json").read_text(encoding="utf-8"))
)
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "　＋1", "－1", "＠x")


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))


def test_csv_opens_in_excel_in_japan_and_keeps_rfc_4180() -> None:
    data = csv_file.render(ORDINARY, "ja")
    assert data.startswith(b"\xef\xbb\xbfnumber,kind,")
    assert data.count(b"\r\n") == data.count(b"\n") == 1 + len(ORDINARY.lines) + len(ORDINARY.taxes) + 1
    assert data.endswith(b"\r\n")


def test_csv_has_a_row_per_line_per_rate_for_prepaid_and_payable() -> None:
    found = rows(csv_file.render(PREPAID, "ja"))
    assert [row["row"] for row in found] == ["line"] * 6 + ["tax", "prepaid", "payable"]
    assert sum(int(row["amount_yen"]) for row in found if row["row"] == "line") == PREPAID.subtotal_yen
    assert (found[-1]["amount_yen"], found[-2]["amount_yen"]) == (str(PREPAID.payable_yen), "100000")
    assert found[0]["description"] == "sekisho-13b 入力トークン"


def test_csv_has_tax_per_rate_with_the_reduced_mark() -> None:
    taxes = [row for row in rows(csv_file.render(BOTH_RATES, "en")) if row["row"] == "tax"]
    assert [(row["tax_rate_percent"], row["reduced"], row["amount_yen"], row["tax_yen"]) for row in taxes] == [
        ("10", "0", "315", "31"), ("8", "1", "1080", "86"),
    ]  # fmt: skip


def test_csv_of_a_credit_note_names_the_original_and_gives_no_quantity_for_a_part() -> None:
    found = rows(csv_file.render(CREDIT_NOTE, "en"))
    assert {(row["kind"], row["corrects"]) for row in found} == {("credit_note", ORDINARY.number)}
    assert [row["quantity"] for row in found if row["row"] == "line"] == ["23456789", ""]


@pytest.mark.parametrize("formula", FORMULAS)
def test_csv_never_starts_a_text_as_a_formula(formula: str) -> None:
    invoice = replace(
        ORDINARY,
        recipient=replace(RECIPIENT, name=formula),
        lines=tuple(replace(line, model=formula, tier=formula) for line in ORDINARY.lines),
    )
    for row in rows(csv_file.render(invoice, "ja")):
        assert row["recipient"] == f"'{formula}"
        for name in ("description", "model", "tier"):
            assert not row[name].lstrip(" 　").startswith(csv_file._FORMULA)


@settings(max_examples=2_000, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_survives_csv_and_json(name: str, model: str) -> None:
    one = an_invoice(a_line(1, model=model), issuer=replace(ISSUER, name=name))
    first = rows(csv_file.render(one, "en"))[0]
    assert first["issuer"].removeprefix("'") == name.replace("\0", "").removeprefix("'")
    assert first["model"].removeprefix("'") == model.replace("\0", "").removeprefix("'")
    document = json.loads(json_file.render(one, "en"))
    assert (document["issuer"]["name"], document["lines"][0]["model"]) == (name, model)


@pytest.mark.parametrize("language", ["ja", "en"])
@pytest.mark.parametrize("name", ALL)
def test_json_keeps_its_schema_and_is_canonical(name: str, language: Any) -> None:
    data = json_file.render(ALL[name], language)
    document = json.loads(data)
    SCHEMA.validate(document)
    assert rfc8785.dumps(document) == data


@pytest.mark.parametrize("field", ["payable_yen", "lines", "issuer", "corrects_issued_on"])
def test_schema_notices_what_is_missing_or_new(field: str) -> None:
    document = json.loads(json_file.render(ORDINARY, "ja"))
    assert not SCHEMA.is_valid({key: value for key, value in document.items() if key != field})
    assert not SCHEMA.is_valid({**document, "more": 1})
    assert not SCHEMA.is_valid({**document, "payable_yen": 1.5})


def test_json_keeps_micro_yen_that_no_float_holds() -> None:
    huge = 9_007_199_254_740_993
    line = replace(ORDINARY.lines[0], micro_yen=huge, quantity=huge)
    document = json.loads(json_file.render(replace(ORDINARY, lines=(line,)), "ja"), parse_float=pytest.fail)
    assert (document["lines"][0]["micro_yen"], document["lines"][0]["quantity"]) == (str(huge), str(huge))


def test_lone_surrogates_break_neither_format() -> None:
    broken: Invoice = replace(ORDINARY, recipient=replace(RECIPIENT, name="a\ud800b"))
    assert rows(csv_file.render(broken, "ja"))[0]["recipient"] == "a?b"
    assert json.loads(json_file.render(broken, "ja"))["recipient"]["name"] == "a?b"
