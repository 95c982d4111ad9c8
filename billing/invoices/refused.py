"""Why a document cannot be made.

tenant_not_found       there is no such tenant
period_invalid         not a month (`YYYY-MM`)
period_not_over        the month still runs in the tenant's zone
period_closed          its invoice exists; corrections are credit notes
period_out_of_order    another month has to be closed first
issuer_missing         nobody is entered who issues the tenant's invoices
recipient_missing      the tenant's invoices have nobody's name on them
registration_invalid   the issuer's registration number (登録番号) is not one
series_fixed           an issuer's numbers go on as they began: enter another issuer
tax_rate_missing       no tax rate is in force on the day of supply
books_differ           journal and ledger do not agree: a finding, to be looked into before money is asked for
invoice_not_found      there is no invoice of this number
not_an_invoice         a credit note cannot be credited
reason_missing         a credit note says why
line_not_found         the invoice has no line of this number
amount_invalid         less than one yen, or more than is left of the line
nothing_left           everything has been given back already
"""


class InvoiceRefused(Exception):
    """`code` is stable (see above); `field` names the argument that is to be changed, '' for none; `detail` says in
    English what is wrong and what would be right."""

    def __init__(self, code: str, field: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.field = field
        self.detail = detail
