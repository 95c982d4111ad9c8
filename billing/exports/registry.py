"""The formats by name: what a command or an API offers, and how it is sent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from billing.exports import csv_file, focus, json_file, pdf, pint
from billing.exports.wording import Language
from billing.invoices.types import Invoice


@dataclass(frozen=True, slots=True)
class Format:
    """`render` is pure and may take CPU time (PDF: tens of milliseconds, hundreds of lines more): call it off the event
    loop. It raises `ExportRefused`. `worded`: whether the language changes anything."""

    name: str
    media_type: str
    suffix: str
    worded: bool
    render: Callable[[Invoice, Language], bytes]

    def filename(self, invoice: Invoice) -> str:
        """A name for the file, safe in headers and on every file system."""
        stem = invoice.number or f"draft-{invoice.period}"
        safe = "".join(character if character.isascii() and character.isalnum() else "-" for character in stem)
        return f"{safe}{self.suffix}"


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Format("pdf", "application/pdf", ".pdf", True, pdf.render),
            Format("csv", "text/csv; charset=utf-8", ".csv", True, csv_file.render),
            Format("json", "application/json", ".json", True, json_file.render),
            Format("pint", "application/xml", ".xml", False, lambda invoice, _: pint.render(invoice)),
            Format("focus", "text/csv; charset=utf-8", ".focus.csv", False, lambda invoice, _: focus.render(invoice)),
        )
    }
)
