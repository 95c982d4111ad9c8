"""JP PINT of an invoice: Peppol's Japanese billing specification, UBL 2.1 (docs.peppol.eu/poac/jp/pint-jp).

A credit note is an Invoice with negative quantities and amounts that refers to the original, as the specification's own
example of a return is: 380 is the only document type of JP PINT, and UBL's CreditNote is not among its documents.
`docs/invoices.md` lists the rules that are checked.
"""

import re
from xml.etree import ElementTree

from billing.exports.refused import ExportRefused
from billing.exports.times import period_dates
from billing.exports.wording import content, explained, percent, unit
from billing.invoices.types import DocumentKind, Invoice, Line, Party, TaxTotal, Unit

UBL = "urn:oasis:names:specification:ubl:schema:xsd:Invoice-2"
CAC = "urn:oasis:names:specification:ubl:schema:xsd:CommonAggregateComponents-2"
CBC = "urn:oasis:names:specification:ubl:schema:xsd:CommonBasicComponents-2"

CUSTOMIZATION = "urn:peppol:pint:billing-1@jp-1"
PROFILE = "urn:peppol:bis:billing"

_CORPORATE_NUMBER, _REGISTRATION_NUMBER = "0188", "0221"  # 法人番号 and 登録番号 in the list of participant schemes
_CREDIT_TRANSFER = "30"
_ONE = "C62"
_UNITS: dict[Unit, str] = {"token": _ONE, "package": "EA", "unit_hour": "HUR", "month": "MON"}
"""Codes of UN/ECE Recommendation 20."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

for _prefix, _uri in (("", UBL), ("cac", CAC), ("cbc", CBC)):
    ElementTree.register_namespace(_prefix, _uri)


class _Group:
    """An element with children, written in the order of the schema by whoever fills it."""

    def __init__(self, element: ElementTree.Element) -> None:
        self.element = element

    def group(self, name: str) -> "_Group":
        """A new aggregate (`cac:`) at the end."""
        return _Group(ElementTree.SubElement(self.element, f"{{{CAC}}}{name}"))

    def leaf(self, name: str, text: str, **attributes: str) -> None:
        """A new value (`cbc:`) at the end; an empty one is left out: the rules forbid empty elements (ibr-079)."""
        shown = " ".join(_NOT_XML.sub("", text).split())
        if shown:
            ElementTree.SubElement(self.element, f"{{{CBC}}}{name}", attributes).text = shown

    def yen(self, name: str, amount: int) -> None:
        """An amount in yen: never a decimal."""
        self.leaf(name, str(amount), currencyID="JPY")


def render(invoice: Invoice) -> bytes:
    """The XML, UTF-8. Raises `ExportRefused` for a draft and where the invoice lacks what JP PINT demands."""
    _demand(invoice)
    sign = -1 if invoice.kind is DocumentKind.CREDIT_NOTE else 1
    root = _Group(ElementTree.Element(f"{{{UBL}}}Invoice"))
    _header(root, invoice)
    _party(root.group("AccountingSupplierParty").group("Party"), invoice.issuer)
    _party(root.group("AccountingCustomerParty").group("Party"), invoice.recipient)
    if sign > 0 and invoice.issuer.bank_account:
        means = root.group("PaymentMeans")
        means.leaf("PaymentMeansCode", _CREDIT_TRANSFER)
        means.group("PayeeFinancialAccount").leaf("ID", invoice.issuer.bank_account)
    _taxes(root.group("TaxTotal"), invoice, sign)
    _totals(root.group("LegalMonetaryTotal"), invoice, sign)
    for line in invoice.lines:
        _line(root.group("InvoiceLine"), line, invoice, sign)
    document: bytes = ElementTree.tostring(root.element, encoding="UTF-8", xml_declaration=True)
    return document


def _demand(invoice: Invoice) -> None:
    demands = (
        ("number", invoice.number, "a draft has no number yet: close the invoice first"),
        ("issuer.name", invoice.issuer.name.strip(), "the seller needs a name"),
        ("issuer.registration_number", re.fullmatch("T[0-9]{13}", invoice.issuer.registration_number),
         "the seller's registration number is T and 13 digits"),
        ("recipient.name", invoice.recipient.name.strip(), "the buyer needs a name"),
        ("recipient.hojin_bangou", re.fullmatch("[0-9]{13}", invoice.recipient.hojin_bangou),
         "the buyer's corporate number, 13 digits, is its address in the network"),
        ("recipient.country", re.fullmatch("[A-Z]{2}", invoice.recipient.country), "a country is two letters"),
        ("lines", invoice.lines, "an invoice without lines cannot be sent"),
        ("corrects", invoice.corrects or invoice.kind is DocumentKind.INVOICE, "a correction names the original"),
    )  # fmt: skip
    for field, given, detail in demands:
        if not given:
            raise ExportRefused("invoice_not_exportable", field, detail)


def _header(root: _Group, invoice: Invoice) -> None:
    root.leaf("CustomizationID", CUSTOMIZATION)
    root.leaf("ProfileID", PROFILE)
    root.leaf("ID", invoice.number)
    root.leaf("IssueDate", invoice.issued_on.isoformat())
    if invoice.kind is DocumentKind.INVOICE:
        root.leaf("DueDate", invoice.due_on.isoformat())
    root.leaf("InvoiceTypeCode", "380")
    root.leaf("Note", invoice.reason)
    root.leaf("DocumentCurrencyCode", "JPY")
    period = root.group("InvoicePeriod")
    first, last = period_dates(invoice)
    period.leaf("StartDate", first.isoformat())
    period.leaf("EndDate", last.isoformat())
    if invoice.corrects:
        original = root.group("BillingReference").group("InvoiceDocumentReference")
        original.leaf("ID", invoice.corrects)
        if invoice.corrects_issued_on is not None:
            original.leaf("IssueDate", invoice.corrects_issued_on.isoformat())


def _party(group: _Group, party: Party) -> None:
    """Seller or buyer; only the seller has a registration number."""
    if party.hojin_bangou:
        group.leaf("EndpointID", party.hojin_bangou, schemeID=_CORPORATE_NUMBER)
    else:
        group.leaf("EndpointID", party.registration_number, schemeID=_REGISTRATION_NUMBER)
    address = group.group("PostalAddress")
    address.leaf("StreetName", party.address)
    address.leaf("PostalZone", party.postal_code)
    address.group("Country").leaf("IdentificationCode", party.country)
    if party.registration_number:
        tax = group.group("PartyTaxScheme")
        tax.leaf("CompanyID", party.registration_number)
        tax.group("TaxScheme").leaf("ID", "VAT")
    legal = group.group("PartyLegalEntity")
    legal.leaf("RegistrationName", party.name)
    legal.leaf("CompanyID", party.hojin_bangou, schemeID=_CORPORATE_NUMBER)
    if party.email:
        group.group("Contact").leaf("ElectronicMail", party.email)


def _taxes(group: _Group, invoice: Invoice, sign: int) -> None:
    group.yen("TaxAmount", sign * invoice.tax_yen)
    for tax in invoice.taxes:
        subtotal = group.group("TaxSubtotal")
        subtotal.yen("TaxableAmount", sign * tax.taxable_yen)
        subtotal.yen("TaxAmount", sign * tax.tax_yen)
        _category(subtotal.group("TaxCategory"), tax, invoice.recipient)


def _category(group: _Group, taxed: TaxTotal | Line, recipient: Party) -> None:
    """S: standard rate, AA: reduced rate. At rate 0, G (export) for a buyer abroad and E (exempt) for one in Japan."""
    untaxed = "E" if recipient.country == "JP" else "G"
    group.leaf("ID", "AA" if taxed.reduced else "S" if taxed.tax_permille else untaxed)
    group.leaf("Percent", percent(taxed.tax_permille))
    group.group("TaxScheme").leaf("ID", "VAT")


def _totals(group: _Group, invoice: Invoice, sign: int) -> None:
    group.yen("LineExtensionAmount", sign * invoice.subtotal_yen)
    group.yen("TaxExclusiveAmount", sign * invoice.subtotal_yen)
    group.yen("TaxInclusiveAmount", sign * invoice.total_yen)
    if invoice.prepaid_yen:
        group.yen("PrepaidAmount", sign * invoice.prepaid_yen)
    group.yen("PayableAmount", sign * invoice.payable_yen)


def _line(group: _Group, line: Line, invoice: Invoice, sign: int) -> None:
    """A part that is given back is one unit at its amount: the line's own quantity and price would not give it."""
    whole = explained(line)
    quantity, price, per, code = 1, line.yen, 1, _ONE
    if whole:
        quantity, price, per, code = line.quantity, line.unit_price, line.per, _UNITS[line.unit]
    group.leaf("ID", str(line.number))
    group.leaf("InvoicedQuantity", str(sign * quantity), unitCode=code)
    group.yen("LineExtensionAmount", sign * line.yen)
    item = group.group("Item")
    item.leaf("Name", content(line, "ja"))
    item.group("SellersItemIdentification").leaf("ID", line.key)
    _category(item.group("ClassifiedTaxCategory"), line, invoice.recipient)
    if whole:
        shown = item.group("AdditionalItemProperty")
        shown.leaf("Name", "表示単位名称")
        shown.leaf("Value", unit(line, "ja", quantity))
    price_group = group.group("Price")
    price_group.yen("PriceAmount", price)
    price_group.leaf("BaseQuantity", str(per), unitCode=code)
