"""Pure: what closing a month or giving money back writes into the ledger. Each entry has two sides of equal amount.

    receivable:<tenant>   what it owes: tokens as settled, ± adjustments, + tax, − prepaid credit, − credit notes
    revenue:<model>       what was charged for a model; revenue:commitment, revenue:breakage
    tax:<permille>        consumption tax received
    prepaid:<tenant>      what it has paid ahead and not used yet
    cash                  what came in

After a closing, the receivable is what its documents ask for, to the yen, plus the carried fractions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from billing.invoices.assemble import CreditUse
from billing.invoices.refused import InvoiceRefused
from billing.invoices.types import Invoice, Line
from billing.prices import MICRO, Variant
from billing.rating import booked_kind

Source = Literal["adjustment", "tax", "prepaid", "credit_note"]

_VARIANTS: dict[str, Variant] = {"batch": "batch", "off_peak": "off_peak"}


@dataclass(frozen=True, slots=True)
class Entry:
    """`micro_yen` from the account `credit` to the account `debit`; never negative."""

    source: Source
    kind: str
    debit: str
    credit: str
    micro_yen: int


def closing_entries(
    invoice: Invoice, provisional: Mapping[tuple[str, str], int], uses: Sequence[CreditUse]
) -> list[Entry]:
    """The entries of a closing. `provisional` is what settlement has booked, by (rate card, booked kind).

    Raises `InvoiceRefused` when a kind with one unit price was booked at another amount than its tokens cost: then
    journal and ledger do not agree.
    """
    receivable, ahead = f"receivable:{invoice.tenant_id}", f"prepaid:{invoice.tenant_id}"
    entries = [
        *_adjustments(invoice.lines, provisional, receivable),
        *(Entry("tax", "tax", receivable, f"tax:{tax.tax_permille}", tax.tax_yen * MICRO) for tax in invoice.taxes),
        *(Entry("prepaid", "prepaid_used", ahead, receivable, use.used_yen * MICRO) for use in uses),
        *(Entry("prepaid", "prepaid_expired", ahead, "revenue:breakage", use.expired_yen * MICRO) for use in uses),
    ]
    return [entry for entry in entries if entry.micro_yen]


def credit_entries(note: Invoice) -> list[Entry]:
    """The entries of a credit note: revenue and tax are given back."""
    receivable = f"receivable:{note.tenant_id}"
    entries = [
        *(Entry("credit_note", line.kind, _revenue(line), receivable, line.yen * MICRO) for line in note.lines),
        *(
            Entry("credit_note", "tax", f"tax:{tax.tax_permille}", receivable, tax.tax_yen * MICRO)
            for tax in note.taxes
        ),
    ]
    return [entry for entry in entries if entry.micro_yen]


def _adjustments(lines: Iterable[Line], provisional: Mapping[tuple[str, str], int], receivable: str) -> Iterator[Entry]:
    """The difference between what a month costs and what was settled, by card and kind."""
    due: dict[tuple[str, str], int] = {}
    models: dict[tuple[str, str], tuple[str, bool]] = {}
    for line in lines:
        if line.kind in ("usage", "package"):
            variant = _VARIANTS.get(line.tier, "")
            key = (line.rate_card_id, booked_kind(line.token_kind, variant))
            due[key] = due.get(key, 0) + line.micro_yen
            models[key] = (_revenue(line), line.kind == "usage" and (line.tier == "" or variant != ""))
        elif line.micro_yen:
            yield Entry("adjustment", line.kind, receivable, _revenue(line), line.micro_yen)
    for key in sorted(due.keys() | provisional.keys()):
        difference = due.get(key, 0) - provisional.get(key, 0)
        revenue, flat = models.get(key, ("", True))
        if difference and flat:
            raise InvoiceRefused(
                "books_differ", "", f"card {key[0]}, {key[1]}: the ledger is off by {-difference} micro-yen"
            )
        if difference > 0:
            yield Entry("adjustment", key[1], receivable, revenue, difference)
        elif difference:
            yield Entry("adjustment", key[1], revenue, receivable, -difference)


def _revenue(line: Line) -> str:
    return "revenue:commitment" if line.kind == "commitment" else f"revenue:{line.model}"
