"""Documents of invoices as answers. They are written on threads, a few at a time, after the book was let go."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from billing.invoices.types import Invoice
from gateway.control.billing_forms import Format
from gateway.edge.document import Document
from gateway.faults import Fault, Language

AT_ONCE_MAX = 2
WAIT_S_MAX = 10.0

_slots = asyncio.Semaphore(AT_ONCE_MAX)


@dataclass(frozen=True, slots=True)
class Printer:
    """A format: the module of `billing.exports` whose `render` writes it, and what it is called outside."""

    module: str
    media_type: str
    ending: str
    has_language: bool = True


PRINTERS: Mapping[Format, Printer] = {
    "json": Printer("json_file", "application/json", "json"),
    "csv": Printer("csv_file", "text/csv; charset=utf-8", "csv"),
    "pdf": Printer("pdf", "application/pdf", "pdf"),
    "pint": Printer("pint", "application/xml", "xml", has_language=False),
    "focus": Printer("focus", "text/csv; charset=utf-8", "focus.csv", has_language=False),
}


def print_invoice(invoice: Invoice, form: Format, language: Language) -> Document:
    """The document. Takes up to some hundred milliseconds of CPU. Raises `ExportRefused`."""
    printer = PRINTERS[form]
    # The typesetter is loaded by whoever first asks for a page.
    render: Callable[..., bytes] = import_module(f"billing.exports.{printer.module}").render
    body = render(invoice, language) if printer.has_language else render(invoice)
    name = invoice.number or f"draft-{invoice.tenant_id}-{invoice.period}"
    return Document(printer.media_type, body, "" if form == "json" else f"{name}.{printer.ending}")


class Printed(Response):
    """An answer that is written when it is sent: the transaction that read the invoice is over by then."""

    def __init__(self, invoice: Invoice, form: Format, language: Language, status_code: int = 200) -> None:
        super().__init__(status_code=status_code)
        self._invoice = invoice
        self._form = form
        self._language = language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write it and send it. Raises `Fault` or `ExportRefused` before anything is sent."""
        document = await _printed(print_invoice, self._invoice, self._form, self._language)
        headers = {name.decode("ascii"): value.decode("ascii") for name, value in document.headers}
        await Response(document.body, self.status_code, headers)(scope, receive, send)


async def _printed(printing: Callable[..., Document], *arguments: Any) -> Document:
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            await _slots.acquire()
    except TimeoutError:
        raise Fault("printer_busy", retry_after_s=2) from None
    try:
        return await asyncio.to_thread(printing, *arguments)
    finally:
        _slots.release()
