"""Invoices: previewed, closed, looked up, corrected. A closed document never changes."""

import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Query, Request

from billing.invoices import service
from billing.invoices.document import tax_record
from billing.invoices.rerate import rerate
from billing.invoices.store import FIND_MAX
from billing.invoices.types import Invoice
from gateway.control.access import InvoiceCloser, InvoiceCreditor, InvoiceReader
from gateway.control.audit import Action
from gateway.control.billing_answers import InvoiceHead, InvoiceList, Rerating
from gateway.control.billing_forms import CreditNote, InvoiceSearch, Printing
from gateway.control.door import language_in
from gateway.control.printed import Printed
from gateway.control.route import router
from gateway.control.tables import INVOICE, TENANT
from gateway.control.work import Work
from gateway.control.work_store import hold_write_lock
from gateway.faults import Fault
from gateway.licensing.times import to_us

routes = router("invoices")


@routes.get("/tenants/{tenant_id}/invoices/{period}/preview")
async def preview_invoice(
    work: InvoiceReader, request: Request, tenant_id: str, period: str, how: Annotated[Printing, Query()]
) -> Printed:
    """What a month costs as of now, by the calculation that closes it; of a closed month, its invoice."""
    return _printed(request, how, await service.preview(work.connection, tenant_id, period))


@routes.post("/tenants/{tenant_id}/invoices/{period}/close", response_model=InvoiceHead)
async def close_invoice(work: InvoiceCloser, tenant_id: str, period: str) -> dict[str, Any]:
    """Close a month that is over: its invoice gets its number and is frozen. Months are closed in their order."""
    invoice = await service.close(work.connection, tenant_id, period, to_us(work.now), _record_of(work))
    async with work.connection.transaction():
        await hold_write_lock(work.connection)
        await work.note(INVOICE, invoice.number, action=Action.CLOSE)
    return head_of(invoice)


@routes.get("/invoices", response_model=InvoiceList)
async def search_invoices(work: InvoiceReader, search: Annotated[InvoiceSearch, Query()]) -> dict[str, Any]:
    """Documents within reach by day, amount and counterparty, with ranges and in any combination."""
    if search.tenant is not None:
        await work.get(TENANT, search.tenant)
        tenants: list[str | None] = [search.tenant]
    else:
        reach = work.actor.reach.argument()
        tenants = [None] if reach is None else list(reach)
    wanted = search.model_dump(exclude={"tenant"})
    found = [one for tenant in tenants for one in await service.find(work.connection, tenant, **wanted)]
    if len(found) >= FIND_MAX:
        raise Fault("too_many_rows", param="issued_from", limit=FIND_MAX - 1)
    return {"data": [head_of(one) for one in sorted(found, key=lambda one: (one.issued_on, one.number))]}


@routes.get("/invoices/{number}")
async def show_invoice(
    work: InvoiceReader, request: Request, number: str, how: Annotated[Printing, Query()]
) -> Printed:  # fmt: skip
    """A document, as JSON, CSV, PDF, JP PINT or FOCUS."""
    return _printed(request, how, await _invoice(work, number))


@routes.get("/invoices/{number}/rerate", response_model=Rerating)
async def rerate_invoice(work: InvoiceReader, number: str) -> dict[str, Any]:
    """Rate a closed month again from the journal, and say whether every byte is the same."""
    await _invoice(work, number)
    again = await rerate(work.connection, number)
    return {"number": number, "identical": again.identical, "frozen": again.frozen, "now": again.now}


@routes.post("/invoices/{number}/credit", status_code=201, response_model=InvoiceHead)
async def credit_invoice(work: InvoiceCreditor, number: str, body: CreditNote) -> dict[str, Any]:
    """Give money back by a credit note (適格返還請求書): of the lines that are named, or all that is left."""
    await _invoice(work, number)
    asked, now = body.asked(), to_us(work.now)
    note = await service.credit(work.connection, number, body.reason, asked, now, _record_of(work))
    await work.note(INVOICE, note.number, action=Action.CREDIT)
    return head_of(note)


def head_of(invoice: Invoice) -> dict[str, Any]:
    """What a document is looked up by."""
    return {
        "number": invoice.number, "kind": invoice.kind.value, "tenant_id": invoice.tenant_id,
        "counterparty": invoice.recipient.name, "period": invoice.period, "issued_on": invoice.issued_on.isoformat(),
        "due_on": invoice.due_on.isoformat(), "subtotal_yen": invoice.subtotal_yen, "tax_yen": invoice.tax_yen,
        "total_yen": invoice.total_yen, "prepaid_yen": invoice.prepaid_yen, "payable_yen": invoice.payable_yen,
        "corrects": invoice.corrects,
    }  # fmt: skip


async def _invoice(work: Work, number: str) -> Invoice:
    """The document of that number within reach. Raises `Fault("object_not_found")`."""
    row = await work.get(INVOICE, number)
    invoice = await service.load(work.connection, row["tenant_id"], number)
    assert invoice is not None
    return invoice


def _printed(request: Request, how: Printing, invoice: Invoice) -> Printed:
    return Printed(invoice, how.format, how.lang or language_in(request.scope))


def _record_of(work: Work) -> Callable[[Invoice], str]:
    """The tax log's record of a document, with who made it: it is written in the transaction that makes it."""

    def record(invoice: Invoice) -> str:
        actor = {"key_id": work.actor.key_id, "role": work.actor.role.value}
        told = {**json.loads(tax_record(invoice)), "actor": actor, "request": work.request_id}
        return json.dumps(told, ensure_ascii=True, sort_keys=True, separators=(",", ":"))

    return record
