"""CSV of an invoice, for spreadsheets (RFC 4180).

UTF-8 with a byte order mark, because Excel in Japan otherwise reads it as Shift_JIS; CRLF; one table: a row per price
line, then a row per tax rate, one for prepaid credit and one for what is to be paid. Amounts are plain integers and
positive in credit notes too: the column `kind` says which it is.

A text that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV Injection").
"""

import csv
import io
from collections.abc import Iterator

from billing.exports.times import period_dates
from billing.exports.wording import Language, content, explained, percent, unit
from billing.invoices.types import Invoice, Line

COLUMNS = (
    "number", "kind", "state", "issued_on", "due_on", "corrects", "period_first", "period_last", "issuer",
    "registration_number", "recipient", "row", "line", "description", "model", "token_kind", "tier", "rate_card_id",
    "quantity", "unit", "unit_price_yen", "per", "tax_rate_percent", "reduced", "amount_yen", "tax_yen",
)  # fmt: skip
"""The same in both languages, as the values of `row` and `kind` are, so that a macro that reads one reads the other."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

_Row = dict[str, str | int]


def render(invoice: Invoice, language: Language) -> bytes:
    """The table. Descriptions and units are in `language`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    document = _document(invoice)
    for row in _rows(invoice, language):
        writer.writerow({name: _cell(value) for name, value in (document | row).items()})
    return text.getvalue().encode("utf-8-sig")


def _cell(value: str | int) -> str | int:
    if isinstance(value, int):
        return value
    # Lone surrogates have no UTF-8; NUL ends the file for some readers.
    text = value.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    return f"'{text}" if text.lstrip(" 　").startswith(_FORMULA) else text


def _document(invoice: Invoice) -> _Row:
    """What is the same in every row, so that rows of several invoices can be put into one table."""
    first, last = period_dates(invoice)
    return {
        "number": invoice.number, "kind": invoice.kind.value, "state": invoice.state,
        "issued_on": invoice.issued_on.isoformat(), "due_on": invoice.due_on.isoformat(), "corrects": invoice.corrects,
        "period_first": first.isoformat(), "period_last": last.isoformat(), "issuer": invoice.issuer.name,
        "registration_number": invoice.issuer.registration_number, "recipient": invoice.recipient.name,
    }  # fmt: skip


def _rows(invoice: Invoice, language: Language) -> Iterator[_Row]:
    for line in invoice.lines:
        yield {"row": "line", **_line(line, language)}
    for tax in invoice.taxes:
        yield {
            "row": "tax", "tax_rate_percent": percent(tax.tax_permille), "reduced": int(tax.reduced),
            "amount_yen": tax.taxable_yen, "tax_yen": tax.tax_yen,
        }  # fmt: skip
    if invoice.prepaid_yen:
        yield {"row": "prepaid", "amount_yen": invoice.prepaid_yen}
    yield {"row": "payable", "amount_yen": invoice.payable_yen, "tax_yen": invoice.tax_yen}


def _line(line: Line, language: Language) -> _Row:
    row: _Row = {
        "line": line.number, "description": content(line, language), "model": line.model,
        "token_kind": line.token_kind, "tier": line.tier, "rate_card_id": line.rate_card_id,
        "tax_rate_percent": percent(line.tax_permille), "reduced": int(line.reduced), "amount_yen": line.yen,
    }  # fmt: skip
    if not explained(line):
        return row
    unit_name = unit(line, language, line.quantity)
    return {**row, "quantity": line.quantity, "unit": unit_name, "unit_price_yen": line.unit_price, "per": line.per}
