"""Rules of JP PINT, each with the change to a valid document that breaks it and nothing but it.

Ids and meaning are those of the published rules: PINT Billing (ibr-…), aligned and Japanese rules 1.1.3
(aligned-ibrp-…, aligned-ibr-jp-…). The checks are our own. A rule looks at the whole document and answers whether it
holds.
"""

import re
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from lxml import etree

NAMES = {
    "ubl": "urn:oasis:names:specification:ubl:schema:xsd:Invoice-2",
    "cac": "urn:oasis:names:specification:ubl:schema:xsd:CommonAggregateComponents-2",
    "cbc": "urn:oasis:names:specification:ubl:schema:xsd:CommonBasicComponents-2",
}
SELLER, BUYER = "cac:AccountingSupplierParty/cac:Party", "cac:AccountingCustomerParty/cac:Party"
LINE, TOTALS, TAXES = "cac:InvoiceLine", "cac:LegalMonetaryTotal", "cac:TaxTotal/cac:TaxSubtotal"
CATEGORIES = "//cac:TaxCategory | //cac:ClassifiedTaxCategory"

Node = Any
Check = Callable[[Node], bool]
Break = Callable[[Node], None]


@dataclass(frozen=True)
class Rule:
    """`on` names the document of `tests.billing.exports.invoices` that the change starts from."""

    rule_id: str
    holds: Check
    broken: Break
    on: str = "ordinary"


def find(node: Node, path: str) -> list[Node]:
    found: list[Node] = node.xpath(path, namespaces=NAMES)
    return found


def text(node: Node, path: str) -> str:
    found = find(node, path)
    return str(found[0].text or "").strip() if found else ""


def number(node: Node, path: str) -> Decimal:
    return Decimal(text(node, path))


def total(node: Node, path: str) -> Decimal:
    return sum((Decimal(found.text) for found in find(node, path)), Decimal(0))


def filled(base: str, path: str) -> Check:
    """Every node at `base` has something at `path`, and it is not empty."""
    return lambda root: all(bool(find(node, path)) and (len(find(node, path)[0]) > 0 or bool(text(node, path)))
                            for node in find(root, base))  # fmt: skip


def without(path: str) -> Break:
    def change(root: Node) -> None:
        for node in find(root, path):
            node.getparent().remove(node)

    return change


def at_most_once(path: str, times: int = 1) -> Check:
    return lambda root: len(find(root, path)) <= times


def again(path: str, times: int = 1) -> Break:
    def change(root: Node) -> None:
        node = find(root, path)[0]
        for _ in range(times):
            node.addnext(deepcopy(node))

    return change


def saying(path: str, value: str) -> Break:
    def change(root: Node) -> None:
        find(root, path)[0].text = value

    return change


def with_attribute(path: str, name: str, value: str | None) -> Break:
    def change(root: Node) -> None:
        node = find(root, path)[0]
        if value is None:
            del node.attrib[name]
        else:
            node.set(name, value)

    return change


def with_tax_currency(value: str) -> Break:
    def change(root: Node) -> None:
        node = etree.Element(f"{{{NAMES['cbc']}}}TaxCurrencyCode")
        node.text = value
        find(root, "cbc:DocumentCurrencyCode")[0].addnext(node)

    return change


def among(path: str, allowed: Iterable[str], attribute: str = "") -> Check:
    known = frozenset(allowed)
    return lambda root: all((node.get(attribute) if attribute else node.text) in known for node in find(root, path))


def is_date(value: str) -> bool:
    try:
        return len(value) == 10 and bool(date.fromisoformat(value))
    except ValueError:
        return False


def decimals(path: str) -> Check:
    return lambda root: all(len(node.text.partition(".")[2]) <= 2 for node in find(root, path))


def exactly_one_breakdown(code: str) -> Check:
    def holds(root: Node) -> bool:
        used = any(text(category, "cbc:ID") == code for category in find(root, "//cac:ClassifiedTaxCategory"))
        breakdowns = [node for node in find(root, f"{TAXES}/cac:TaxCategory") if text(node, "cbc:ID") == code]
        return len(breakdowns) == int(used)

    return holds


def zero_for(code: str, base: str, path: str) -> Check:
    return lambda root: all(number(node, path) == 0 for node in find(root, base) if text(node, "cbc:ID") == code)


def tax_lies_between_floor_and_ceiling(root: Node) -> bool:
    for subtotal in find(root, TAXES):
        exact = number(subtotal, "cbc:TaxableAmount") * number(subtotal, "cac:TaxCategory/cbc:Percent") / 100
        low, high = exact.to_integral_value(ROUND_FLOOR), exact.to_integral_value(ROUND_CEILING)
        if not low <= number(subtotal, "cbc:TaxAmount") <= high:
            return False
    return True


def payable_is_total_less_paid(root: Node) -> bool:
    paid = number(root, f"{TOTALS}/cbc:PrepaidAmount") if find(root, f"{TOTALS}/cbc:PrepaidAmount") else Decimal(0)
    return number(root, f"{TOTALS}/cbc:PayableAmount") == number(root, f"{TOTALS}/cbc:TaxInclusiveAmount") - paid


def tax_currency_has_its_total(root: Node) -> bool:
    currencies = {node.get("currencyID") for node in find(root, "cac:TaxTotal/cbc:TaxAmount")}
    return all(node.text in currencies for node in find(root, "cbc:TaxCurrencyCode"))


def _other_registrations(root: Node) -> None:
    scheme = find(root, f"{SELLER}/cac:PartyTaxScheme")[0]
    for _ in range(2):
        other = deepcopy(scheme)
        find(other, "cac:TaxScheme/cbc:ID")[0].text = "GST"
        scheme.addnext(other)


def _negative_category(code: str) -> Break:
    def change(root: Node) -> None:
        for node in find(root, f"{TAXES}/cac:TaxCategory"):
            if text(node, "cbc:ID") == code:
                node.getparent().getparent().remove(node.getparent())

    return change


def _percent_of(code: str, base: str, value: str) -> Break:
    def change(root: Node) -> None:
        for node in find(root, base):
            if text(node, "cbc:ID") == code:
                find(node, "cbc:Percent")[0].text = value

    return change


def _tax_of(code: str) -> Break:
    def change(root: Node) -> None:
        for node in find(root, f"{TAXES}/cac:TaxCategory"):
            if text(node, "cbc:ID") == code:
                find(node.getparent(), "cbc:TaxAmount")[0].text = "1"

    return change


def required(rule_id: str, base: str, path: str, on: str = "ordinary") -> Rule:
    return Rule(rule_id, filled(base, path), without(f"{base}/{path}" if base != "." else path), on)


def once(rule_id: str, path: str, on: str = "ordinary") -> Rule:
    return Rule(rule_id, at_most_once(path), again(path), on)


CURRENCIES, COUNTRIES, VAT = {"JPY"}, {"JP", "DE"}, {"VAT", "GST"}
ICD, EAS = {"0088", "0147", "0188", "0221"}, {"0088", "0147", "0188", "0221"}
UNITS, MEANS = {"C62", "EA", "HUR", "MON", "H87"}, {"30", "42", "58"}
DATES = "//cbc:IssueDate | //cbc:DueDate | //cbc:StartDate | //cbc:EndDate"

SHARED = (
    required("ibr-001", ".", "cbc:CustomizationID"),
    required("ibr-002", ".", "cbc:ID"),
    required("ibr-003", ".", "cbc:IssueDate"),
    required("ibr-004", ".", "cbc:InvoiceTypeCode"),
    required("ibr-005", ".", "cbc:DocumentCurrencyCode"),
    required("ibr-006", SELLER, "cac:PartyLegalEntity/cbc:RegistrationName"),
    required("ibr-007", BUYER, "cac:PartyLegalEntity/cbc:RegistrationName"),
    required("ibr-008", SELLER, "cac:PostalAddress"),
    required("ibr-009", f"{SELLER}/cac:PostalAddress", "cac:Country/cbc:IdentificationCode"),
    required("ibr-010", BUYER, "cac:PostalAddress"),
    required("ibr-011", f"{BUYER}/cac:PostalAddress", "cac:Country/cbc:IdentificationCode"),
    required("ibr-012", TOTALS, "cbc:LineExtensionAmount"),
    required("ibr-013", TOTALS, "cbc:TaxExclusiveAmount"),
    required("ibr-014", TOTALS, "cbc:TaxInclusiveAmount"),
    required("ibr-015", TOTALS, "cbc:PayableAmount"),
    required("ibr-016", ".", LINE),
    required("ibr-021", LINE, "cbc:ID"),
    required("ibr-022", LINE, "cbc:InvoicedQuantity"),
    Rule("ibr-023", lambda root: all(node.get("unitCode") for node in find(root, f"{LINE}/cbc:InvoicedQuantity")),
         with_attribute(f"{LINE}/cbc:InvoicedQuantity", "unitCode", None)),
    required("ibr-024", LINE, "cbc:LineExtensionAmount"),
    required("ibr-025", LINE, "cac:Item/cbc:Name"),
    required("ibr-026", LINE, "cac:Price/cbc:PriceAmount"),
    Rule("ibr-027", lambda root: all(number(line, "cac:Price/cbc:PriceAmount") >= 0 for line in find(root, LINE)),
         saying(f"{LINE}/cac:Price/cbc:PriceAmount", "-1"), on="credit_note"),
    Rule("ibr-029", lambda root: text(root, "cac:InvoicePeriod/cbc:EndDate")
         >= text(root, "cac:InvoicePeriod/cbc:StartDate"),
         saying("cac:InvoicePeriod/cbc:EndDate", "2026-09-30")),
    required("ibr-049", "cac:PaymentMeans", "cbc:PaymentMeansCode"),
    Rule("ibr-053", tax_currency_has_its_total, with_tax_currency("USD")),
    Rule("ibr-054", lambda root: all(text(node, "cbc:Name") and text(node, "cbc:Value")
                                     for node in find(root, "//cac:AdditionalItemProperty")),
         without("//cac:AdditionalItemProperty/cbc:Value")),
    required("ibr-055", "cac:BillingReference", "cac:InvoiceDocumentReference/cbc:ID", on="credit_note"),
    Rule("ibr-062", lambda root: all(node.get("schemeID") for node in find(root, f"{SELLER}/cbc:EndpointID")),
         with_attribute(f"{SELLER}/cbc:EndpointID", "schemeID", None)),
    Rule("ibr-063", lambda root: all(node.get("schemeID") for node in find(root, f"{BUYER}/cbc:EndpointID")),
         with_attribute(f"{BUYER}/cbc:EndpointID", "schemeID", None)),
    Rule("ibr-073", lambda root: all(is_date(node.text) for node in find(root, DATES)),
         saying("cbc:DueDate", "2026/11/30")),
    required("ibr-076", ".", "cbc:ProfileID"),
    Rule("ibr-077", lambda root: text(root, "cbc:TaxCurrencyCode") != text(root, "cbc:DocumentCurrencyCode"),
         with_tax_currency("JPY")),
    Rule("ibr-079", lambda root: all(len(node) > 0 or (node.text or "").strip() for node in find(root, "//*")),
         saying(f"{SELLER}/cac:PostalAddress/cbc:StreetName", " ")),
    required("ibr-080", BUYER, "cbc:EndpointID"),
    required("ibr-081", SELLER, "cbc:EndpointID"),
    Rule("ibr-087", lambda root: all(Decimal(node.text) > 0 for node in find(root, "//cbc:BaseQuantity")),
         saying("//cbc:BaseQuantity", "0")),
    Rule("ibr-088", lambda root: all(len({str(code) for code in find(line, ".//@unitCode")}) == 1
                                     for line in find(root, LINE)),
         with_attribute("//cbc:BaseQuantity", "unitCode", "H87")),
    Rule("ibr-091", decimals(f"{TOTALS}/cbc:PayableAmount"), saying(f"{TOTALS}/cbc:PayableAmount", "1.234")),
    once("ibr-097", "cac:InvoicePeriod"),
    once("ibr-098", f"{SELLER}/cac:PartyLegalEntity/cbc:RegistrationName"),
    once("ibr-100", f"{SELLER}/cac:PartyLegalEntity/cbc:CompanyID"),
    once("ibr-102", f"{BUYER}/cac:PartyLegalEntity/cbc:RegistrationName"),
    once("ibr-103", f"{BUYER}/cac:PartyLegalEntity/cbc:CompanyID"),
    Rule("ibr-123", decimals(f"{TOTALS}/cbc:TaxExclusiveAmount"), saying(f"{TOTALS}/cbc:TaxExclusiveAmount", "1.234")),
    Rule("ibr-124", decimals("cac:TaxTotal/cbc:TaxAmount"), saying("cac:TaxTotal/cbc:TaxAmount", "1.234")),
    Rule("ibr-125", decimals(f"{TOTALS}/cbc:TaxInclusiveAmount"), saying(f"{TOTALS}/cbc:TaxInclusiveAmount", "1.234")),
    Rule("ibr-126", lambda root: {str(value) for value in find(root, "//@currencyID")}
         == {text(root, "cbc:DocumentCurrencyCode")},
         with_attribute(f"{LINE}/cbc:LineExtensionAmount", "currencyID", "USD")),
    Rule("ibr-cl-01", among("cbc:InvoiceTypeCode", {"380"}), saying("cbc:InvoiceTypeCode", "381")),
    Rule("ibr-cl-03", among("//*[@currencyID]", CURRENCIES, "currencyID"),
         with_attribute(f"{TOTALS}/cbc:PayableAmount", "currencyID", "YEN")),
    Rule("ibr-cl-04", among("cbc:DocumentCurrencyCode", CURRENCIES), saying("cbc:DocumentCurrencyCode", "YEN")),
    Rule("ibr-cl-11", among("//cac:PartyLegalEntity/cbc:CompanyID[@schemeID]", ICD, "schemeID"),
         with_attribute(f"{SELLER}/cac:PartyLegalEntity/cbc:CompanyID", "schemeID", "JP")),
    Rule("ibr-cl-14", among("//cac:Country/cbc:IdentificationCode", COUNTRIES),
         saying(f"{BUYER}/cac:PostalAddress/cac:Country/cbc:IdentificationCode", "JPN")),
    Rule("ibr-cl-16", among("cac:PaymentMeans/cbc:PaymentMeansCode", MEANS),
         saying("cac:PaymentMeans/cbc:PaymentMeansCode", "999")),
    Rule("ibr-cl-23", among("//cbc:InvoicedQuantity | //cbc:BaseQuantity", UNITS, "unitCode"),
         with_attribute(f"{LINE}/cbc:InvoicedQuantity", "unitCode", "TOKEN")),
    Rule("ibr-cl-25", among("//cbc:EndpointID", EAS, "schemeID"),
         with_attribute(f"{BUYER}/cbc:EndpointID", "schemeID", "9999")),
    Rule("ibr-cl-27", among("//cac:TaxScheme/cbc:ID", VAT), saying("//cac:TaxScheme/cbc:ID", "JCT")),
    Rule("ibr-co-10", lambda root: number(root, f"{TOTALS}/cbc:LineExtensionAmount")
         == total(root, f"{LINE}/cbc:LineExtensionAmount"), saying(f"{LINE}/cbc:LineExtensionAmount", "1")),
    Rule("ibr-co-13", lambda root: number(root, f"{TOTALS}/cbc:TaxExclusiveAmount")
         == number(root, f"{TOTALS}/cbc:LineExtensionAmount"), saying(f"{TOTALS}/cbc:TaxExclusiveAmount", "1")),
    Rule("ibr-co-14", lambda root: number(root, "cac:TaxTotal/cbc:TaxAmount") == total(root, f"{TAXES}/cbc:TaxAmount"),
         saying("cac:TaxTotal/cbc:TaxAmount", "1"), on="both_rates"),
    Rule("ibr-co-15", lambda root: number(root, f"{TOTALS}/cbc:TaxInclusiveAmount")
         == number(root, f"{TOTALS}/cbc:TaxExclusiveAmount") + number(root, "cac:TaxTotal/cbc:TaxAmount"),
         saying(f"{TOTALS}/cbc:TaxInclusiveAmount", "1")),
    Rule("ibr-co-16", payable_is_total_less_paid, saying(f"{TOTALS}/cbc:PayableAmount", "1"), on="prepaid"),
    Rule("ibr-co-19", lambda root: all(len(node) > 0 for node in find(root, "cac:InvoicePeriod")),
         without("cac:InvoicePeriod/*")),
    Rule("ibr-co-26", lambda root: bool(find(root, f"{SELLER}/cac:PartyTaxScheme/cbc:CompanyID")
                                        or find(root, f"{SELLER}/cac:PartyLegalEntity/cbc:CompanyID")),
         without(f"{SELLER}//cbc:CompanyID")),
    once("ibr-sr-06", "cac:BillingReference/cac:InvoiceDocumentReference", on="credit_note"),
    required("ibr-sr-07", "cac:BillingReference", "cac:InvoiceDocumentReference/cbc:ID", on="credit_note"),
    once("ibr-sr-27", "cac:PaymentMeans/cbc:PaymentMeansCode"),
    Rule("ibr-sr-42", at_most_once(f"{SELLER}/cac:PartyTaxScheme", 2), again(f"{SELLER}/cac:PartyTaxScheme", 2)),
    once("ibr-sr-51", "cbc:Note", on="credit_note"),
    required("ibr-sr-57", "//cac:PartyTaxScheme", "cbc:CompanyID"),
    required("ibr-sr-58", f"{LINE}/cac:Item/cac:ClassifiedTaxCategory", "cbc:ID"),
)  # fmt: skip

SELLER_TAX = f"{SELLER}/cac:PartyTaxScheme[cac:TaxScheme/cbc:ID='VAT']/cbc:CompanyID"

JAPANESE = (
    Rule("aligned-ibrp-001-jp",
         lambda root: text(root, "cbc:CustomizationID").startswith("urn:peppol:pint:billing-1@jp-1"),
         saying("cbc:CustomizationID", "urn:peppol:pint:billing-1@my-1")),
    Rule("aligned-ibrp-002-jp", lambda root: text(root, "cbc:ProfileID") == "urn:peppol:bis:billing",
         saying("cbc:ProfileID", "urn:peppol:bis:selfbilling")),
    once("aligned-ibrp-009", SELLER_TAX),
    required("aligned-ibrp-016", "cac:PaymentMeans[cbc:PaymentMeansCode='30']/cac:PayeeFinancialAccount", "cbc:ID"),
    required("aligned-ibrp-045", TAXES, "cbc:TaxableAmount"),
    required("aligned-ibrp-046", TAXES, "cbc:TaxAmount"),
    required("aligned-ibrp-047", TAXES, "cac:TaxCategory[cac:TaxScheme/cbc:ID='VAT']/cbc:ID"),
    required("aligned-ibrp-048", TAXES, "cac:TaxCategory/cbc:Percent"),
    required("aligned-ibrp-049", "cac:PaymentMeans", "cbc:PaymentMeansCode"),
    required("aligned-ibrp-050-jp", f"{LINE}/cac:Item/cac:ClassifiedTaxCategory", "cbc:Percent"),
    Rule("aligned-ibrp-051-jp", tax_lies_between_floor_and_ceiling, saying(f"{TAXES}/cbc:TaxAmount", "83913")),
    Rule("aligned-ibrp-052", lambda root: bool(find(root, "//cac:InvoicePeriod")), without("//cac:InvoicePeriod")),
    Rule("aligned-ibrp-053-jp", at_most_once("cac:TaxTotal/cbc:TaxAmount[@currencyID='JPY']"), again("cac:TaxTotal")),
    Rule("aligned-ibrp-e-01", exactly_one_breakdown("E"), _negative_category("E"), on="exempt"),
    Rule("aligned-ibrp-e-05", zero_for("E", f"{LINE}/cac:Item/cac:ClassifiedTaxCategory", "cbc:Percent"),
         _percent_of("E", f"{LINE}/cac:Item/cac:ClassifiedTaxCategory", "10"), on="exempt"),
    Rule("aligned-ibrp-e-09", zero_for("E", f"{TAXES}/cac:TaxCategory", "../cbc:TaxAmount"), _tax_of("E"), on="exempt"),
    Rule("aligned-ibrp-g-01", exactly_one_breakdown("G"), _negative_category("G"), on="abroad"),
    Rule("aligned-ibrp-g-05", zero_for("G", f"{LINE}/cac:Item/cac:ClassifiedTaxCategory", "cbc:Percent"),
         _percent_of("G", f"{LINE}/cac:Item/cac:ClassifiedTaxCategory", "10"), on="abroad"),
    Rule("aligned-ibrp-g-09", zero_for("G", f"{TAXES}/cac:TaxCategory", "../cbc:TaxAmount"), _tax_of("G"), on="abroad"),
    once("aligned-ibrp-sr-12", SELLER_TAX),
    Rule("aligned-ibrp-sr-13", at_most_once(f"{SELLER}/cac:PartyTaxScheme[cac:TaxScheme/cbc:ID!='VAT']"),
         _other_registrations),
    Rule("aligned-ibr-jp-01", lambda root: re.fullmatch("T[0-9]{13}", text(root, SELLER_TAX)) is not None,
         saying(SELLER_TAX, "8700110005901")),
    Rule("aligned-ibr-jp-03", lambda root: all(text(node, "cac:TaxScheme/cbc:ID") == "VAT"
                                              for node in find(root, CATEGORIES)),
         saying("//cac:ClassifiedTaxCategory/cac:TaxScheme/cbc:ID", "GST")),
    required("aligned-ibr-jp-04", f"{SELLER}", "cac:PartyTaxScheme/cbc:CompanyID"),
    Rule("aligned-ibr-jp-05", lambda root: text(root, "cbc:TaxCurrencyCode") in ("", "JPY"), with_tax_currency("EUR")),
    Rule("aligned-ibr-jp-06", lambda root: all("." not in node.text for node in find(root, f"{TAXES}/cbc:TaxAmount")),
         saying(f"{TAXES}/cbc:TaxAmount", "83911.0")),
    Rule("aligned-ibrp-cl-01-jp", lambda root: all(text(node, "cbc:ID") in {"AA", "E", "S", "G", "O"}
                                                  for node in find(root, CATEGORIES)),
         saying(f"{TAXES}/cac:TaxCategory/cbc:ID", "Z")),
    Rule("aligned-ibrp-cl-02-jp", lambda root: text(root, "cbc:InvoiceTypeCode") == "380",
         saying("cbc:InvoiceTypeCode", "389")),
)  # fmt: skip

RULES = {rule.rule_id: rule for rule in (*SHARED, *JAPANESE)}

NEVER_WRITTEN = (
    "AllowanceCharge", "PayeeParty", "TaxRepresentativeParty", "Delivery", "CardAccount", "PaymentMandate",
    "PaymentTerms", "PaymentID", "PrepaidPayment", "AdditionalDocumentReference", "DespatchDocumentReference",
    "ReceiptDocumentReference", "OriginatorDocumentReference", "ContractDocumentReference", "ProjectReference",
    "OrderReference", "OrderLineReference", "DespatchLineReference", "DocumentReference",
    "StandardItemIdentification", "CommodityClassification", "OriginCountry", "EmbeddedDocumentBinaryObject",
    "TaxCurrencyCode", "TaxExemptionReason", "PartyIdentification", "PartyName", "AddressLine", "TaxPointDate",
    "IssueTime", "PayableRoundingAmount", "TaxIncludedIndicator", "FinancialInstitutionBranch",
)  # fmt: skip
"""Elements of JP PINT that our documents do not use: rules about them cannot be broken."""
