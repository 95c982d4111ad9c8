"""JSON of an invoice, for programs: canonical (RFC 8785), described by `docs/invoice.schema.json`.

Names of fields are stable: a field is added, never renamed. Micro-yen and counts of units are strings of digits, since
they may exceed what every JSON reader holds exactly (2⁵³); whole yen are numbers.
"""

from dataclasses import fields

import rfc8785

from billing.exports.times import period_dates, utc_text
from billing.exports.wording import Language, content
from billing.invoices.types import Invoice, Line, Party, TaxTotal

VERSION = 1


def render(invoice: Invoice, language: Language) -> bytes:
    """The document. `language` is that of the descriptions, nothing else."""
    first, last = period_dates(invoice)
    issued_on = invoice.corrects_issued_on
    return rfc8785.dumps(
        {
            "version": VERSION, "language": language, "currency": "JPY", "invoice_id": invoice.invoice_id,
            "number": invoice.number, "kind": invoice.kind.value, "state": invoice.state,
            "tenant_id": invoice.tenant_id, "issuer": _party(invoice.issuer), "recipient": _party(invoice.recipient),
            "period": {
                "name": invoice.period, "zone": invoice.zone, "first_day": first.isoformat(),
                "last_day": last.isoformat(), "start": utc_text(invoice.period_start),
                "end": utc_text(invoice.period_end), "watermark": str(invoice.watermark),
            },
            "issued_on": invoice.issued_on.isoformat(), "due_on": invoice.due_on.isoformat(),
            "corrects": invoice.corrects, "corrects_issued_on": issued_on.isoformat() if issued_on else "",
            "reason": _text(invoice.reason), "lines": [_line(line, language) for line in invoice.lines],
            "taxes": [_tax(tax) for tax in invoice.taxes], "subtotal_yen": invoice.subtotal_yen,
            "tax_yen": invoice.tax_yen, "total_yen": invoice.total_yen, "prepaid_yen": invoice.prepaid_yen,
            "payable_yen": invoice.payable_yen,
        }
    )  # fmt: skip


def _text(text: str) -> str:
    """Lone surrogates have no place in JSON that is exchanged (RFC 8259, 8.2)."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _party(party: Party) -> dict[str, str]:
    return {field.name: _text(getattr(party, field.name)) for field in fields(party)}


def _tax(tax: TaxTotal) -> dict[str, int | bool]:
    return {
        "tax_permille": tax.tax_permille, "reduced": tax.reduced, "taxable_yen": tax.taxable_yen,
        "tax_yen": tax.tax_yen,
    }  # fmt: skip


def _line(line: Line, language: Language) -> dict[str, str | int | bool]:
    return {
        "number": line.number, "key": _text(line.key), "kind": line.kind, "description": _text(content(line, language)),
        "model": _text(line.model), "token_kind": _text(line.token_kind), "tier": _text(line.tier),
        "rate_card_id": _text(line.rate_card_id), "quantity": str(line.quantity), "unit": line.unit,
        "unit_price_yen": line.unit_price, "per": line.per, "micro_yen": str(line.micro_yen),
        "carried_in_micro_yen": str(line.carried_in_micro_yen), "yen": line.yen,
        "carried_out_micro_yen": str(line.carried_out_micro_yen), "tax_permille": line.tax_permille,
        "reduced": line.reduced,
    }  # fmt: skip
