"""Refusals of `billing` as faults of the catalogue: translated here, and nowhere else."""

from billing.exports.refused import ExportRefused
from billing.invoices.refused import InvoiceRefused
from billing.prices import BadTerms
from gateway.control.refusals import not_found
from gateway.faults import Fault

BillingRefusal = InvoiceRefused | ExportRefused | BadTerms


def fault_of(refusal: BillingRefusal) -> Fault:
    """The fault that tells a person of it."""
    if isinstance(refusal, BadTerms):
        return Fault("invalid_value", param=refusal.field, detail=refusal.detail)
    if isinstance(refusal, ExportRefused):
        return Fault("invoice_not_exportable", param=refusal.field or None, detail=f"{refusal.field}: {refusal.detail}")
    if refusal.code == "tenant_not_found":
        return not_found("tenant", "", refusal.field)
    if refusal.code == "invoice_not_found":
        return not_found("invoice", "", refusal.field)
    return Fault(refusal.code, param=refusal.field or None, detail=refusal.detail)
