"""PDF of an invoice, for people: `invoice.typ` set by Typst in the typeface of the package.

The same invoice gives the same bytes: no system fonts, no network, and the document's date is its date of issue. The
invoice travels as JSON, so nothing in a name is ever read as markup.
"""

import json
from datetime import UTC, datetime, time
from functools import cache
from pathlib import Path

import typst

from billing.exports.glyphs import FONT
from billing.exports.page import page
from billing.exports.wording import Language
from billing.invoices.types import Invoice

_TEMPLATE = Path(__file__).parent / "invoice.typ"


@cache
def _fonts() -> typst.Fonts:
    return typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=[str(FONT.parent)])


def render(invoice: Invoice, language: Language) -> bytes:
    """The PDF. Takes tens of milliseconds of CPU: call it off the event loop."""
    compiler = typst.Compiler(
        str(_TEMPLATE),
        root=str(_TEMPLATE.parent),
        font_paths=_fonts(),
        ignore_system_fonts=True,
        sys_inputs={"page": json.dumps(page(invoice, language), ensure_ascii=False)},
    )
    issued = datetime.combine(invoice.issued_on, time(), UTC)
    document = compiler.compile(format="pdf", timestamp=issued)
    if not isinstance(document, bytes):
        raise TypeError("one document was asked for")
    return document
