"""Invoices for tests of the printed documents, made by hand: every amount follows the rules of `domain.md`."""

from dataclasses import replace
from datetime import date
from typing import Any

from billing.invoices.types import DocumentKind, Invoice, Line, Party, TaxTotal

ISSUER = Party(
    name="株式会社関所モデル基盤",
    registration_number="T8700110005901",
    hojin_bangou="8700110005901",
    postal_code="100-0001",
    address="東京都千代田区千代田1-1 関所ビル9階",
    email="billing@sekisho.example",
    bank_account="みほん銀行 本店営業部 普通 1234567 カ）セキシヨモデルキバン",
)
RECIPIENT = Party(
    name="株式会社髙島屋計測",
    hojin_bangou="7000012050002",
    postal_code="460-0001",
    address="愛知県名古屋市中区三の丸3-1-1",
    email="ap@partner.example",
)
OCTOBER = (1_790_780_400_000_000, 1_793_458_800_000_000)
"""2026-10-01 to 2026-11-01, midnight in Tokyo."""


def a_line(number: int, **changes: Any) -> Line:
    """A usage line; `micro_yen` and `yen` follow from quantity and unit price unless given."""
    values: dict[str, Any] = {
        "number": number, "key": f"card-1/sekisho-13b/{number}", "kind": "usage", "model": "sekisho-13b",
        "token_kind": "input", "tier": "", "rate_card_id": "card-1", "quantity": 12_345_678, "unit": "token",
        "unit_price": 120, "per": 1_000_000, "carried_in_micro_yen": 0, "tax_permille": 100, "reduced": False,
    }  # fmt: skip
    values |= changes
    exact = values["quantity"] * values["unit_price"] * 1_000_000 // values["per"]
    values.setdefault("micro_yen", exact)
    yen, rest = divmod(values["micro_yen"] + values["carried_in_micro_yen"], 1_000_000)
    values.setdefault("yen", yen)
    values.setdefault("carried_out_micro_yen", rest)
    return Line(**values)


def an_invoice(*lines: Line, prepaid_yen: int = 0, **changes: Any) -> Invoice:
    """A closed invoice over `lines`; tax is rounded down once per rate."""
    rates = sorted({(line.tax_permille, line.reduced) for line in lines}, reverse=True)
    taxes = []
    for permille, reduced in rates:
        taxable = sum(line.yen for line in lines if (line.tax_permille, line.reduced) == (permille, reduced))
        taxes.append(TaxTotal(permille, reduced, taxable, taxable * permille // 1000))
    subtotal, tax = sum(line.yen for line in lines), sum(entry.tax_yen for entry in taxes)
    values: dict[str, Any] = {
        "invoice_id": "019a2b3c-0000-7000-8000-000000000001", "number": "2026-10-000042",
        "kind": DocumentKind.INVOICE, "state": "closed", "tenant_id": "takashimaya-keisoku", "issuer": ISSUER,
        "recipient": RECIPIENT, "period": "2026-10", "zone": "Asia/Tokyo", "period_start": OCTOBER[0],
        "period_end": OCTOBER[1], "issued_on": date(2026, 11, 2), "due_on": date(2026, 11, 30), "lines": lines,
        "taxes": tuple(taxes), "subtotal_yen": subtotal, "tax_yen": tax, "total_yen": subtotal + tax,
        "prepaid_yen": prepaid_yen, "payable_yen": subtotal + tax - prepaid_yen, "watermark": OCTOBER[1],
    }  # fmt: skip
    return Invoice(**{**values, **changes})


ORDINARY = an_invoice(
    a_line(1, quantity=123_456_789, carried_in_micro_yen=400_000),
    a_line(2, token_kind="cached_input", quantity=45_000_000, unit_price=60),
    a_line(3, token_kind="output", quantity=23_456_789, unit_price=480),
    a_line(
        4, kind="provisioned", token_kind="", model="sekisho-70b", quantity=720, unit="unit_hour", unit_price=900, per=1
    ),
    a_line(5, kind="package", token_kind="", quantity=3, unit="package", unit_price=50_000, per=1),
    a_line(6, kind="commitment", token_kind="", quantity=1, unit="month", unit_price=12_345, per=1),
)
BOTH_RATES = an_invoice(
    a_line(1, quantity=875_000, unit_price=120),  # ¥105
    a_line(2, quantity=875_000, unit_price=120, token_kind="output"),
    a_line(3, quantity=875_000, unit_price=120, token_kind="image"),
    a_line(4, kind="package", token_kind="", model="災害備蓄パン", quantity=2, unit="package", unit_price=540, per=1,
           tax_permille=80, reduced=True),
)  # fmt: skip
EXEMPT = an_invoice(a_line(1), a_line(2, tax_permille=0, token_kind="output"))
ABROAD = replace(EXEMPT, recipient=replace(RECIPIENT, name="Überwachung GmbH", country="DE", postal_code="10115"))
PREPAID = an_invoice(*ORDINARY.lines, prepaid_yen=100_000)
ZERO = an_invoice(a_line(1, quantity=100))
LONG = an_invoice(
    *(
        a_line(number, model=f"sekisho-{number % 7 + 1}3b", token_kind=("input", "output", "cached_input")[number % 3],
               tier=str(number % 4) if number % 4 else "", quantity=number * 1_234_567, unit_price=60 + number)
        for number in range(1, 201)
    )
)  # fmt: skip
DRAFT = replace(ORDINARY, number="", state="draft")
CREDIT_NOTE = an_invoice(
    replace(ORDINARY.lines[2], number=1),
    replace(ORDINARY.lines[3], number=2, micro_yen=100_000_000_000, yen=100_000, carried_out_micro_yen=0),
    kind=DocumentKind.CREDIT_NOTE,
    number="2026-11-000007",
    issued_on=date(2026, 11, 20),
    due_on=date(2026, 11, 20),
    corrects=ORDINARY.number,
    corrects_issued_on=ORDINARY.issued_on,
    reason="10月14日の障害に伴う返金",
)
ALL = {
    "ordinary": ORDINARY, "both_rates": BOTH_RATES, "prepaid": PREPAID, "zero": ZERO, "exempt": EXEMPT,
    "abroad": ABROAD, "long": LONG, "draft": DRAFT, "credit_note": CREDIT_NOTE,
}  # fmt: skip
