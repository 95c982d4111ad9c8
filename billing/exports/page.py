"""What stands on the page: every text of the PDF, in order, already worded and formatted. No layout."""

from collections.abc import Iterable
from datetime import date
from typing import Any

from billing.exports import glyphs
from billing.exports.times import period_dates
from billing.exports.wording import Language, content, explained, per, percent, unit, words
from billing.invoices.types import DocumentKind, Invoice, Line, Party

REDUCED_MARK = "※"


class _Setter:
    """Makes texts printable and remembers what could not be set."""

    def __init__(self) -> None:
        self.lost: dict[str, None] = {}

    def __call__(self, text: str) -> str:
        shown, lost = glyphs.printable(text)
        self.lost.update(dict.fromkeys(lost))
        return shown


def page(invoice: Invoice, language: Language) -> dict[str, Any]:
    """The texts of `invoice`. The template (`invoice.typ`) only places them."""
    texts, kind, set_text = words(language), invoice.kind.value, _Setter()
    reduced = sorted({line.tax_permille for line in invoice.lines if line.reduced})
    shown: dict[str, Any] = {
        "language": language,
        "title": texts["title"][kind],
        "draft": texts["draft"] if invoice.state == "draft" else "",
        "recipient": _recipient(invoice.recipient, language, set_text),
        "issuer": _issuer(invoice.issuer, language, set_text),
        "facts": [[label, set_text(value)] for label, value in _facts(invoice, language)],
        "lead": texts["lead"][kind],
        "amount": [texts["amount"][kind], yen(invoice.payable_yen)],
        "columns": list(texts["columns"].values()),
        "lines": [_line(line, language, set_text) for line in invoice.lines],
        "tax_columns": list(texts["tax_columns"].values()),
        "taxes": [
            [rate(tax.tax_permille, tax.reduced, language), yen(tax.taxable_yen), yen(tax.tax_yen)]
            for tax in invoice.taxes
        ],
        "totals": _totals(invoice, language),
        "bank_account": [texts["bank_account"], set_text(invoice.issuer.bank_account)] if _asks(invoice) else [],
    }
    notes = [texts["reduced_note"].format(rate=f"{percent(permille)}%") for permille in reduced]
    notes.append(texts["rounding_note"])
    if set_text.lost:
        notes.append(texts["glyph_note"].format(characters=glyphs.names(list(set_text.lost))))
    return {**shown, "notes": notes}


def yen(amount: int) -> str:
    """An amount with separators, as on paper."""
    return f"-¥{-amount:,}" if amount < 0 else f"¥{amount:,}"


def rate(permille: int, reduced: bool, language: Language) -> str:
    """The name of a tax rate: `10%対象`, `8%対象（軽減税率）`."""
    text: str = words(language)["rate_reduced" if reduced else "rate"]
    return text.format(rate=percent(permille))


def day(value: date, language: Language) -> str:
    """A date as people of the language write it."""
    return f"{value.year}年{value.month}月{value.day}日" if language == "ja" else value.isoformat()


def _asks(invoice: Invoice) -> bool:
    """Whether the document asks for money to be transferred."""
    return invoice.kind is DocumentKind.INVOICE and invoice.payable_yen > 0 and bool(invoice.issuer.bank_account)


def _facts(invoice: Invoice, language: Language) -> Iterable[tuple[str, str]]:
    texts, kind = words(language), invoice.kind.value
    first, last = (day(value, language) for value in period_dates(invoice))
    period = f"{first}〜{last}" if language == "ja" else f"{first} to {last}"
    yield texts["number"][kind], invoice.number or texts["draft"]
    yield texts["issued_on"][kind], day(invoice.issued_on, language)
    if invoice.kind is DocumentKind.CREDIT_NOTE:
        yield texts["corrects"], invoice.corrects
        if invoice.corrects_issued_on is not None:
            yield texts["corrects_issued_on"], day(invoice.corrects_issued_on, language)
    yield texts["period"][kind], period if first != last else first
    if invoice.kind is DocumentKind.INVOICE:
        yield texts["due_on"], day(invoice.due_on, language)
    if invoice.reason:
        yield texts["reason"], invoice.reason


def _recipient(party: Party, language: Language, set_text: _Setter) -> dict[str, Any]:
    return {
        "name": set_text(party.name),
        "honorific": words(language)["honorific"],
        "details": [set_text(detail) for detail in _address(party)],
    }


def _issuer(party: Party, language: Language, set_text: _Setter) -> dict[str, Any]:
    registration = [f"{words(language)['registration_number']}: {party.registration_number}"]
    details = (registration if party.registration_number else []) + _address(party) + [party.email]
    return {"name": set_text(party.name), "details": [set_text(detail) for detail in details if detail]}


def _address(party: Party) -> list[str]:
    postal = f"〒{party.postal_code}" if party.country == "JP" and party.postal_code else party.postal_code
    country = "" if party.country == "JP" else party.country
    return [part for part in (postal, party.address, country) if part]


def _line(line: Line, language: Language, set_text: _Setter) -> list[str]:
    """The cells of a line, in the order of the columns. A partial return has no quantity of its own."""
    mark = f" {REDUCED_MARK}" if line.reduced else ""
    whole = explained(line)
    return [
        str(line.number),
        set_text(content(line, language)) + mark,
        f"{line.quantity:,} {unit(line, language, line.quantity)}" if whole else words(language)["part"],
        f"¥{line.unit_price:,}{per(line, language)}" if whole else "",
        f"{percent(line.tax_permille)}%",
        yen(line.yen),
    ]


def _totals(invoice: Invoice, language: Language) -> list[list[str]]:
    texts, kind = words(language), invoice.kind.value
    rows = [
        [texts["subtotal"], yen(invoice.subtotal_yen)],
        [texts["tax"], yen(invoice.tax_yen)],
        [texts["total"], yen(invoice.total_yen)],
    ]
    if invoice.prepaid_yen:
        rows.append([texts["prepaid"][kind], yen(-invoice.prepaid_yen)])
    return [*rows, [texts["payable"][kind], yen(invoice.payable_yen)]]
