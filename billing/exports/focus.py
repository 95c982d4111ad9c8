"""FOCUS 1.2 "Cost and Usage" of an invoice (focus.finops.org): a CSV row per charge, made for cost tools.

Σ BilledCost of an invoice's rows is its `payable_yen`, with its sign: what a credit note gives back is negative.
BilledCost is whole yen as on the invoice; ListCost and ContractedCost are exact (unit price × quantity), so they differ
from it by the fraction of a yen that is carried. Strings stay as they are, also where a spreadsheet would see a
formula, because the specification forbids changing them.
"""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from billing.exports.refused import ExportRefused
from billing.exports.times import utc_text
from billing.exports.wording import content, explained, percent, words
from billing.invoices.types import DocumentKind, Invoice, Line, TaxTotal, Unit

CUSTOM_COLUMNS = ("x_CorrectsInvoiceId", "x_LineNumber", "x_Model", "x_TaxRatePercent", "x_TokenKind")

_UNITS: dict[Unit, str] = {"token": "Tokens", "package": "Packages", "unit_hour": "Unit-Hours", "month": "Months"}
_TIME = "%Y-%m-%dT%H:%M:%SZ"

Row = dict[str, str]


@cache
def columns() -> dict[str, dict[str, Any]]:
    """The columns of FOCUS 1.2 with type, presence, nullability and allowed values (`focus_1_2.yaml`)."""
    text = resources.files("billing.exports").joinpath("focus_1_2.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["columns"]
    return found


def render(invoice: Invoice) -> bytes:
    """The CSV: UTF-8 without a byte order mark, all columns of FOCUS 1.2, then our own (`x_…`). Null is an empty field.

    A draft has rows without InvoiceId, since it has no number yet.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*columns(), *CUSTOM_COLUMNS], restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows(invoice))
    return text.getvalue().encode("utf-8", "replace")


def rows(invoice: Invoice) -> Iterator[Row]:
    """The charges: every line, tax per rate, and prepaid credit that was used up (or came back)."""
    sign = -1 if invoice.kind is DocumentKind.CREDIT_NOTE else 1
    common = _common(invoice)
    for line in invoice.lines:
        yield {**common, **_line(line, sign)}
    for tax in invoice.taxes:
        yield {**common, **_tax(tax, sign)}
    if invoice.prepaid_yen:
        described = words("en")["prepaid"][invoice.kind.value]
        yield {
            **common, **_costs(-sign * invoice.prepaid_yen), "ChargeCategory": "Credit", "ChargeFrequency": "One-Time",
            "ChargeDescription": described,
        }  # fmt: skip


def _common(invoice: Invoice) -> Row:
    start, end = utc_text(invoice.period_start), utc_text(invoice.period_end)
    corrects = invoice.kind is DocumentKind.CREDIT_NOTE
    billing_start, billing_end = _month_of_issue(invoice) if corrects else (start, end)
    return {
        "BillingAccountId": invoice.tenant_id, "BillingAccountName": invoice.recipient.name,
        "BillingAccountType": "Tenant", "BillingCurrency": "JPY", "BillingPeriodStart": billing_start,
        "BillingPeriodEnd": billing_end, "ChargeClass": "Correction" if corrects else "", "ChargePeriodStart": start,
        "ChargePeriodEnd": end, "InvoiceId": invoice.number, "InvoiceIssuerName": invoice.issuer.name,
        "PricingCurrency": "JPY", "ProviderName": invoice.issuer.name, "PublisherName": invoice.issuer.name,
        "ServiceCategory": "AI and Machine Learning", "ServiceName": "Managed Inference",
        "ServiceSubcategory": "Generative AI", "x_CorrectsInvoiceId": invoice.corrects,
    }  # fmt: skip


def _month_of_issue(invoice: Invoice) -> tuple[str, str]:
    """A correction is billed in the month in which it is issued, whatever period it corrects."""
    first = datetime.combine(invoice.issued_on.replace(day=1), datetime.min.time(), ZoneInfo(invoice.zone))
    following = (first + timedelta(days=32)).replace(day=1)
    return first.astimezone(UTC).strftime(_TIME), following.astimezone(UTC).strftime(_TIME)


def _costs(billed: int, exact: Decimal | None = None) -> Row:
    """The four costs. `exact` is price × quantity; without it all are what is billed."""
    cost = _decimal(Decimal(billed))
    before_rounding = cost if exact is None else _decimal(exact)
    return {
        "BilledCost": cost, "EffectiveCost": cost, "PricingCurrencyEffectiveCost": cost, "ListCost": before_rounding,
        "ContractedCost": before_rounding,
    }  # fmt: skip


def _line(line: Line, sign: int) -> Row:
    row = {"ChargeDescription": content(line, "en"), "x_LineNumber": str(line.number), "x_Model": line.model,
           "x_TaxRatePercent": percent(line.tax_permille), "x_TokenKind": line.token_kind}  # fmt: skip
    if line.kind == "commitment":
        # What is missing to a minimum spend is neither used nor bought, nor is it a discount for a commitment.
        return {**row, **_costs(sign * line.yen), "ChargeCategory": "Adjustment", "ChargeFrequency": "Recurring"}
    row |= {
        "ChargeCategory": "Usage", "ChargeFrequency": "Usage-Based", "PricingCategory": "Standard",
        "SkuId": "/".join(filter(None, (line.model, line.kind, line.token_kind))), "SkuPriceId": line.key,
        "SkuMeter": words("en")["token_kind"].get(line.token_kind, line.token_kind) or line.kind,
        "SkuPriceDetails": _details(line),
    }  # fmt: skip
    return {**row, **_priced(line, sign)} if explained(line) else {**row, **_costs(sign * line.yen)}


def _details(line: Line) -> str:
    details = {"x_RateCardId": line.rate_card_id} | ({"x_Tier": line.tier} if line.tier else {})
    return json.dumps(details, ensure_ascii=False, separators=(",", ":"))


def _priced(line: Line, sign: int) -> Row:
    """Quantity and price, in the unit of the price list: 1,000,000 tokens at a time, or one package or hour."""
    price, unit = _decimal(Decimal(line.unit_price)), _UNITS[line.unit]
    return {
        **_costs(sign * line.yen, _shifted(sign * line.quantity * line.unit_price, line.per)),
        "ConsumedQuantity": _decimal(Decimal(sign * line.quantity)), "ConsumedUnit": unit,
        "PricingQuantity": _decimal(_shifted(sign * line.quantity, line.per)),
        "PricingUnit": unit if line.per == 1 else f"{line.per} {unit}", "ListUnitPrice": price,
        "ContractedUnitPrice": price, "PricingCurrencyListUnitPrice": price,
        "PricingCurrencyContractedUnitPrice": price,
    }  # fmt: skip


def _tax(tax: TaxTotal, sign: int) -> Row:
    rate = percent(tax.tax_permille)
    return {
        **_costs(sign * tax.tax_yen), "ChargeCategory": "Tax", "ChargeFrequency": "Recurring", "x_TaxRatePercent": rate,
        "ChargeDescription": f"Consumption tax {rate}%{' (reduced rate)' if tax.reduced else ''}",
    }  # fmt: skip


def _shifted(value: int, per: int) -> Decimal:
    """`value / per`, exactly: prices are per a power of ten of units."""
    digits = len(str(per)) - 1
    if per != 10**digits:
        raise ExportRefused("invoice_not_exportable", "lines.per", "the price must be per a power of ten of units")
    return Decimal(value).scaleb(-digits)


def _decimal(value: Decimal) -> str:
    """Always with a decimal point, since readers that guess types would take a column of whole yen for integers, and
    FOCUS demands decimals. No exponent, no minus zero."""
    whole, _, fraction = f"{value + 0:f}".partition(".")
    return f"{whole}.{fraction.rstrip('0') or '0'}"
