"""Documents of invoices as answers. They are written on threads, a few at a time, after the book was let go."""

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from billing.invoices.types import Invoice
from gateway.control.billing_forms import Format
from gateway.edge.document import Document
from gateway.faults import Fault, Language

AT_ONCE_MAX = 2
WAIT_S_MAX = 10.0

_slots = asyncio.Semaphore(AT_ONCE_MAX)


class Printed(Response):
    """An answer that is written when it is sent: the transaction that read the invoice is over by then."""

    def __init__(self, invoice: Invoice, form: Format, language: Language) -> None:
        super().__init__()
        self._invoice = invoice
        self._form: Format = form
        self._language: Language = language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write it and send it. Raises `Fault` or `ExportRefused` before anything is sent."""
        document = await _printed(self._invoice, self._form, self._language)
        headers = {name.decode("ascii"): value.decode("ascii") for name, value in document.headers}
        await Response(document.body, 200, headers)(scope, receive, send)


def print_invoice(invoice: Invoice, form: Format, language: Language) -> Document:
    """The document. Takes up to some hundred milliseconds of CPU. Raises `ExportRefused`."""
    from billing.exports.registry import FORMATS  # with the typesetter, which most processes never need

    chosen = FORMATS[form]
    return Document(chosen.media_type, chosen.render(invoice, language), chosen.filename(invoice))


async def _printed(invoice: Invoice, form: Format, language: Language) -> Document:
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            await _slots.acquire()
    except TimeoutError:
        raise Fault("printer_busy", retry_after_s=2) from None
    try:
        return await asyncio.to_thread(print_invoice, invoice, form, language)
    finally:
        _slots.release()
