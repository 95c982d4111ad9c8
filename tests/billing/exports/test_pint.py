"""JP PINT: every document is valid UBL 2.1 and keeps the rules; every rule notices when it is broken."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from billing.exports import pint
from billing.exports.refused import ExportRefused
from billing.invoices.types import Invoice
from tests.billing.exports.invoices import ALL, BOTH_RATES, CREDIT_NOTE, DRAFT, ISSUER, ORDINARY, PREPAID, RECIPIENT
from tests.billing.exports.pint_rules import LINE, NEVER_WRITTEN, RULES, SELLER, TAXES, TOTALS, find, number, text

CLOSED = {name: invoice for name, invoice in ALL.items() if invoice.state == "closed"}
NASTY = "A&B <x> \x00\x1f\ud800\ufffe]]> “株式会社” " + "長" * 300


@cache
def schema() -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(Path(__file__).parent / "ubl" / "maindoc" / "UBL-Invoice-2.1.xsd"))


def parsed(invoice: Invoice) -> Any:
    return etree.fromstring(pint.render(invoice))


@pytest.mark.parametrize("name", CLOSED)
def test_document_is_valid_ubl_and_keeps_every_rule(name: str) -> None:
    root = parsed(CLOSED[name])
    schema().assertValid(root)
    assert [rule_id for rule_id, rule in RULES.items() if not rule.holds(root)] == []


@pytest.mark.parametrize("rule_id", RULES)
def test_rule(rule_id: str) -> None:
    rule = RULES[rule_id]
    root = parsed(CLOSED[rule.on])
    assert rule.holds(root)
    rule.broken(root)
    assert not rule.holds(root)


def test_schema_refuses_elements_out_of_order() -> None:
    root = parsed(ORDINARY)
    root.append(find(root, "cbc:ID")[0])
    assert not schema().validate(root)


def test_elements_that_no_rule_here_looks_at_are_never_written() -> None:
    written = {etree.QName(node).localname for invoice in CLOSED.values() for node in parsed(invoice).iter()}
    assert not written & set(NEVER_WRITTEN)


def test_rules_that_are_checked_are_those_that_the_document_names() -> None:
    document = (Path(__file__).parents[3] / "docs" / "invoices.md").read_text(encoding="utf-8")
    listed = document[document.index("- PINT Billing:") : document.index("**What could not be had**")]
    assert set(re.findall(r"\b(?:aligned-)?ibrp?-[a-z0-9-]+", listed)) == set(RULES)


def test_tax_stands_per_rate_with_its_category() -> None:
    root = parsed(BOTH_RATES)
    rows = [
        (text(node, "cac:TaxCategory/cbc:ID"), text(node, "cac:TaxCategory/cbc:Percent"),
         text(node, "cbc:TaxableAmount"), text(node, "cbc:TaxAmount"))
        for node in find(root, TAXES)
    ]  # fmt: skip
    assert rows == [("S", "10", "315", "31"), ("AA", "8", "1080", "86")]


def test_prices_per_million_tokens_keep_their_base_quantity() -> None:
    line = find(parsed(ORDINARY), LINE)[0]
    assert text(line, "cbc:InvoicedQuantity") == "123456789"
    assert (text(line, "cac:Price/cbc:PriceAmount"), text(line, "cac:Price/cbc:BaseQuantity")) == ("120", "1000000")


def test_prepaid_credit_reduces_what_is_payable() -> None:
    root = parsed(PREPAID)
    assert number(root, f"{TOTALS}/cbc:PrepaidAmount") == 100_000
    assert number(root, f"{TOTALS}/cbc:PayableAmount") == PREPAID.payable_yen


def test_credit_note_is_negative_and_names_the_original() -> None:
    root = parsed(CREDIT_NOTE)
    assert text(root, "cac:BillingReference/cac:InvoiceDocumentReference/cbc:ID") == ORDINARY.number
    assert text(root, "cac:BillingReference/cac:InvoiceDocumentReference/cbc:IssueDate") == "2026-11-02"
    assert number(root, f"{TOTALS}/cbc:PayableAmount") == -CREDIT_NOTE.payable_yen
    assert all(number(line, "cbc:InvoicedQuantity") < 0 <= number(line, "cac:Price/cbc:PriceAmount")
               for line in find(root, LINE))  # fmt: skip


def test_part_that_is_given_back_is_one_unit_at_its_amount() -> None:
    line = find(parsed(CREDIT_NOTE), LINE)[1]
    assert (text(line, "cbc:InvoicedQuantity"), text(line, "cac:Price/cbc:PriceAmount")) == ("-1", "100000")


def test_hostile_names_stay_text() -> None:
    root = parsed(replace(ORDINARY, issuer=replace(ISSUER, name=NASTY)))
    schema().assertValid(root)
    assert text(root, f"{SELLER}/cac:PartyLegalEntity/cbc:RegistrationName") == "A&B <x> ]]> “株式会社” " + "長" * 300


@pytest.mark.parametrize(
    ("invoice", "field"),
    [
        (DRAFT, "number"),
        (replace(ORDINARY, issuer=replace(ISSUER, registration_number="")), "issuer.registration_number"),
        (replace(ORDINARY, issuer=replace(ISSUER, name=" ")), "issuer.name"),
        (replace(ORDINARY, recipient=replace(RECIPIENT, hojin_bangou="")), "recipient.hojin_bangou"),
        (replace(ORDINARY, recipient=replace(RECIPIENT, name="")), "recipient.name"),
        (replace(ORDINARY, recipient=replace(RECIPIENT, country="Japan")), "recipient.country"),
        (replace(ORDINARY, lines=()), "lines"),
        (replace(CREDIT_NOTE, corrects=""), "corrects"),
    ],
)
def test_what_the_specification_demands_is_asked_for_by_name(invoice: Invoice, field: str) -> None:
    with pytest.raises(ExportRefused) as refused:
        pint.render(invoice)
    assert (refused.value.code, refused.value.field) == ("invoice_not_exportable", field)
