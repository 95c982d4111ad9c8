"""FOCUS 1.2: every row keeps the published requirements, and what it sums to is what the invoice asks for."""

import csv
import io
import re
from dataclasses import replace
from decimal import Decimal

import pytest
from focus_data_toolkit.schema.detection import detect_focus_schema

from billing.exports import focus
from billing.exports.refused import ExportRefused
from billing.invoices.types import DocumentKind, Invoice
from tests.billing.exports.focus_model import NOT_OURS, broken, requirements
from tests.billing.exports.invoices import (
    ALL,
    BOTH_RATES,
    CREDIT_NOTE,
    DRAFT,
    ISSUER,
    ORDINARY,
    PREPAID,
    RECIPIENT,
    a_line,
    an_invoice,
)

Row = dict[str, str]


def table(invoice: Invoice) -> tuple[list[str], list[Row]]:
    reader = csv.DictReader(io.StringIO(focus.render(invoice).decode("utf-8"), newline=""))
    return list(reader.fieldnames or ()), list(reader)


@pytest.mark.parametrize("name", ALL)
def test_every_row_keeps_the_published_requirements(name: str) -> None:
    names, rows = table(ALL[name])
    missing = {"InvoiceId-C-005-C"} if name == "draft" else set()  # a draft has no number yet
    assert broken(rows, names) == missing


@pytest.mark.parametrize("name", ALL)
def test_billed_cost_sums_to_what_is_payable_with_its_sign(name: str) -> None:
    invoice = ALL[name]
    sign = -1 if invoice.kind is DocumentKind.CREDIT_NOTE else 1
    _, rows = table(invoice)
    assert sum(Decimal(row["BilledCost"]) for row in rows) == sign * invoice.payable_yen
    assert {row["InvoiceId"] for row in rows} == {invoice.number}


@pytest.mark.parametrize(
    ("column", "value", "rule_id"),
    [
        ("BilledCost", "", "BilledCost-C-003-M"),
        ("BilledCost", "14,815.0", "BilledCost-C-002-M"),
        ("BilledCost", "14815", "BilledCost-C-001-M"),
        ("BillingAccountId", "", "BillingAccountId-C-001-M"),
        ("BillingCurrency", "¥", "BillingCurrency-C-006-M"),
        ("BillingPeriodStart", "2026-10-01", "BillingPeriodStart-C-002-M"),
        ("ChargeCategory", "Consumption", "ChargeCategory-C-003-M"),
        ("ChargeClass", "Correct", "ChargeClass-C-005-C"),
        ("ChargeFrequency", "Monthly", "ChargeFrequency-C-003-M"),
        ("ConsumedUnit", "", "ConsumedUnit-C-006-C"),
        ("ContractedUnitPrice", "-1.0", "ContractedUnitPrice-C-009-C"),
        ("ContractedCost", "1.0", "ContractedUnitPrice-C-011-C"),
        ("InvoiceIssuerName", "", "InvoiceIssuerName-C-003-M"),
        ("InvoiceIssuerName", "Someone else", "BilledCost-C-005-C"),
        ("ListUnitPrice", "", "ListUnitPrice-C-005-C"),
        ("ListCost", "1.0", "ListCost-C-009-C"),
        ("PricingCategory", "Cheap", "PricingCategory-C-007-M"),
        ("PricingQuantity", "", "PricingQuantity-C-005-C"),
        ("PricingUnit", "/Tokens", "PricingUnit-C-003-O"),
        ("ResourceId", "r-1", "ResourceType-C-005-C"),
        ("ServiceCategory", "AI", "ServiceCategory-C-003-M"),
        ("ServiceSubcategory", "Data Warehouses", "ServiceSubcategory-C-004-M"),
        ("SkuId", "", "SkuId-C-005-C"),
        ("SkuPriceDetails", '{"x_Tiers":[1]}', "SkuPriceDetails-C-001-M"),
        ("SkuPriceId", "", "SkuPriceDetails-C-004-C"),
    ],
)
def test_broken_value_is_noticed(column: str, value: str, rule_id: str) -> None:
    names, rows = table(ORDINARY)
    rows[0][column] = value
    assert rule_id in broken(rows, names)


def test_missing_mandatory_column_is_noticed() -> None:
    names, rows = table(ORDINARY)
    assert broken(rows, [name for name in names if name != "BilledCost"]) == {"CostAndUsage-D-006-M"}


def test_tax_rows_have_no_prices() -> None:
    _, rows = table(BOTH_RATES)
    taxes = [row for row in rows if row["ChargeCategory"] == "Tax"]
    assert [(row["BilledCost"], row["x_TaxRatePercent"], row["ListUnitPrice"]) for row in taxes] == [
        ("31.0", "10", ""), ("86.0", "8", ""),
    ]  # fmt: skip


def test_prepaid_credit_is_a_credit() -> None:
    _, rows = table(PREPAID)
    assert [(row["BilledCost"], row["ChargeDescription"]) for row in rows if row["ChargeCategory"] == "Credit"] == [
        ("-100000.0", "Paid from prepaid balance"),
    ]  # fmt: skip


def test_credit_note_corrects_an_earlier_period_with_negative_cost() -> None:
    _, rows = table(CREDIT_NOTE)
    assert {row["ChargeClass"] for row in rows} == {"Correction"}
    assert all(Decimal(row["BilledCost"]) < 0 for row in rows)
    assert {row["x_CorrectsInvoiceId"] for row in rows} == {ORDINARY.number}
    # Billed in November, in Tokyo; what is corrected was charged in October.
    assert {(row["BillingPeriodStart"], row["BillingPeriodEnd"]) for row in rows} == {
        ("2026-10-31T15:00:00Z", "2026-11-30T15:00:00Z"),
    }  # fmt: skip
    assert {row["ChargePeriodEnd"] for row in rows} == {"2026-10-31T15:00:00Z"}


def test_exact_cost_and_billed_yen_stand_side_by_side() -> None:
    row = table(ORDINARY)[1][0]
    assert (row["PricingQuantity"], row["PricingUnit"], row["ListUnitPrice"]) == (
        "123.456789",
        "1000000 Tokens",
        "120.0",
    )
    assert (row["ContractedCost"], row["BilledCost"]) == ("14814.81468", "14815.0")


def test_amounts_beyond_a_float_stay_exact() -> None:
    invoice = an_invoice(a_line(1, quantity=123_456_789_012_345_678, unit_price=999_999_937))
    row = table(invoice)[1][0]
    assert Decimal(row["ContractedCost"]) == Decimal(123_456_789_012_345_678 * 999_999_937).scaleb(-6)


def test_draft_has_no_invoice_id() -> None:
    assert {row["InvoiceId"] for row in table(DRAFT)[1]} == {""}


def test_text_arrives_unchanged() -> None:
    name = '=1+1,"quoted"\r\n株式会社'
    _, rows = table(replace(ORDINARY, issuer=replace(ISSUER, name=name), recipient=replace(RECIPIENT, name=name)))
    assert {row["ProviderName"] for row in rows} == {row["BillingAccountName"] for row in rows} == {name}


def test_price_per_an_odd_number_of_units_is_refused() -> None:
    with pytest.raises(ExportRefused):
        focus.render(an_invoice(a_line(1, quantity=700, per=7)))


def test_independent_toolkit_takes_it_for_focus_1_2() -> None:
    found = detect_focus_schema(table(ORDINARY)[0])
    assert (found.dataset, found.detected_version, found.confidence) == ("Cost and Usage", "1.2", "HIGH")
    assert found.exact_match


def test_our_list_of_columns_is_the_published_one() -> None:
    model: dict[str, dict[str, object]] = {}
    for rule in requirements().values():
        criteria, function = (
            rule["ValidationCriteria"],
            rule["ValidationCriteria"]["Requirement"].get("CheckFunction", ""),
        )
        if rule["EntityType"] == "Column":
            column = model.setdefault(rule["Reference"], {"type": "json", "nullable": True})
            if function.startswith("Type"):
                column["type"] = function.removeprefix("Type").lower()
            if re.fullmatch(r"\w+ MUST NOT be null\.", criteria["MustSatisfy"]):
                column["nullable"] = False
            if "one of the allowed values" in criteria["MustSatisfy"] and function == "OR":
                column["allowed"] = [item["Value"] for item in criteria["Requirement"]["Items"]]
    model["ChargeClass"]["allowed"] = ["Correction"]  # its requirement has no list
    model["CommitmentDiscountStatus"]["allowed"] = [
        "Used",
        "Unused",
    ]  # the text; the model names another column's values
    ours = {name: {key: value for key, value in column.items() if key not in ("presence", "format")}
            for name, column in focus.columns().items()}  # fmt: skip
    assert ours == model


def test_presence_of_columns_is_the_published_one() -> None:
    strength = {"recommended": 1, "conditional": 2, "mandatory": 3}
    model: dict[str, str] = {}
    for rule in requirements().values():
        criteria = rule["ValidationCriteria"]
        if criteria["Requirement"].get("CheckFunction") == "ColumnPresent":
            weak = "conditional" if rule["ApplicabilityCriteria"] else "mandatory"
            presence = weak if criteria["Keyword"] == "MUST" else "recommended"
            name = criteria["Requirement"]["ColumnName"]
            model[name] = max(model.get(name, "recommended"), presence, key=strength.__getitem__)
    assert {name: column["presence"] for name, column in focus.columns().items()} == model


def test_features_that_are_not_ours_have_only_empty_columns() -> None:
    names = [name for name in focus.columns() if name.startswith(("CapacityReservation", "CommitmentDiscount"))]
    assert len(names) == 9 and len(NOT_OURS) == 2
    assert all(row[name] == "" for invoice in ALL.values() for row in table(invoice)[1] for name in names)
