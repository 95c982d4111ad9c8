"""From a month's facts to a document: rounding once per line, tax once per rate, what is carried and paid ahead."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.agreements import Agreement, Commitment, Credit, Provisioned
from billing.invoices.assemble import Basis, CreditUse, Header, Quantity, assemble
from billing.invoices.document import decode, encode
from billing.invoices.entries import closing_entries
from billing.invoices.period import month_of
from billing.invoices.refused import InvoiceRefused
from billing.invoices.types import Invoice, Party
from billing.prices import Graduated, Step, Terms
from billing.rating import RateCard
from tests.billing.books import us

NOVEMBER = month_of("2026-11", "Asia/Tokyo")
HEADER = Header(
    "i", "n", "closed", "t", Party("issuer"), Party("recipient"), date(2026, 12, 1), date(2026, 12, 31)
)  # fmt: skip
FLAT = RateCard("c1", "m1", 0, None, 120, 60, 480)
REDUCED = RateCard("c2", "m2", 0, None, 120, 60, 480, terms=Terms(tax="reduced"))
BASIS = Basis(NOVEMBER, (), (), {}, (), {"standard": 100, "reduced": 80})


def made(*quantities: Quantity, **changes: Any) -> Invoice:
    return assemble(HEADER, replace(BASIS, quantities=quantities, **changes))[0]


def agreed(terms: Commitment | Provisioned, since: str, until: str | None = None, name: str = "a1") -> Agreement:
    return Agreement(name, "t", us(since), None if until is None else us(until), terms)


def test_tax_of_three_lines_of_105_yen_is_31_not_30() -> None:
    cards = [replace(FLAT, rate_card_id=f"c{n}", model=f"m{n}", input_price=105) for n in range(3)]
    invoice = made(*(Quantity(card, "input", 1_000_000) for card in cards))
    assert [line.yen for line in invoice.lines] == [105, 105, 105]
    assert [(tax.tax_permille, tax.taxable_yen, tax.tax_yen) for tax in invoice.taxes] == [(100, 315, 31)]
    assert (invoice.subtotal_yen, invoice.tax_yen, invoice.total_yen) == (315, 31, 346)


def test_tax_stands_once_per_rate() -> None:
    invoice = made(Quantity(REDUCED, "input", 10_000_000), Quantity(FLAT, "output", 1_000_000))
    assert [(tax.tax_permille, tax.reduced, tax.taxable_yen, tax.tax_yen) for tax in invoice.taxes] == [
        (100, False, 480, 48), (80, True, 1_200, 96),
    ]  # fmt: skip
    assert [line.reduced for line in invoice.lines] == [False, True]


def test_line_is_rounded_down_once_and_the_rest_is_carried() -> None:
    invoice = made(Quantity(FLAT, "input", 12_345), carried={"usage/c1/input/": 900_000, "usage/gone/input/": 5})
    (line,) = invoice.lines
    assert (line.micro_yen, line.carried_in_micro_yen, line.yen, line.carried_out_micro_yen) == (
        1_481_400, 900_000, 2, 381_400,
    )  # fmt: skip


def test_quantities_of_one_line_come_together_before_rounding() -> None:
    invoice = made(*(Quantity(FLAT, "input", 5_000) for _ in range(2)))
    assert [(line.quantity, line.yen) for line in invoice.lines] == [(10_000, 1)]


@settings(max_examples=2_000)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6), st.integers(0, 999))
def test_lines_and_fractions_are_what_was_used_to_the_micro_yen(months: list[int], price: int) -> None:
    card = replace(FLAT, input_price=price)
    carried, yen, used = 0, 0, 0
    for tokens in months:
        invoice = made(Quantity(card, "input", tokens), carried={"usage/c1/input/": carried})
        used += tokens * price
        yen += invoice.subtotal_yen
        carried = invoice.lines[0].carried_out_micro_yen if invoice.lines else carried
        assert 0 <= carried < 1_000_000
        assert used == yen * 1_000_000 + carried


def test_what_is_missing_to_a_commitment_is_charged_as_one_line() -> None:
    usage = (
        Quantity(FLAT, "output", 10_000_000),
        Quantity(replace(FLAT, rate_card_id="c9", model="m9"), "output", 10**6),
    )
    all_models = made(*usage, agreements=[agreed(Commitment(10_000), "2026-11-01T00:00+09:00")])
    assert [(line.kind, line.yen) for line in all_models.lines] == [
        ("usage", 4_800),
        ("usage", 480),
        ("commitment", 4_720),
    ]
    one = made(*usage, agreements=[agreed(Commitment(10_000, ("m9",)), "2026-01-01T00:00+09:00")])
    assert (one.lines[-1].model, one.lines[-1].yen, one.subtotal_yen) == ("m9", 9_520, 4_800 + 10_000)
    met = made(*usage, agreements=[agreed(Commitment(5_280), "2026-01-01T00:00+09:00")])
    assert met.subtotal_yen == 5_280


def test_agreement_by_the_month_begins_with_the_first_month_that_begins_in_it() -> None:
    def of(since: str, until: str | None = None) -> int:
        return made(agreements=[agreed(Commitment(700), since, until)]).subtotal_yen

    assert of("2026-11-01T00:00+09:00") == 700
    assert of("2026-11-01T00:00:01+09:00") == 0
    assert of("2026-10-15T00:00+09:00", "2026-11-01T00:00+09:00") == 0
    assert of("2026-10-15T00:00+09:00", "2026-11-02T00:00+09:00") == 700


def test_throughput_is_charged_by_full_hours_within_the_month() -> None:
    def of(since: str, until: str | None = None, zone: str = "Asia/Tokyo", name: str = "2026-11") -> int:
        terms = Provisioned("m7", units=3, unit_price=1_000, per="hour")
        invoice = made(agreements=[agreed(terms, since, until)], period=month_of(name, zone))
        return sum(line.quantity for line in invoice.lines)

    assert of("2020-01-01T00:00+09:00") == 3 * 720
    assert of("2026-11-30T22:00+09:00") == 3 * 2
    assert of("2026-11-30T21:30+09:00", "2026-11-30T23:29+09:00") == 3
    assert of("2026-11-30T23:30+09:00") == 0
    # The month in which clocks go forward has an hour less, the one in which they go back an hour more.
    assert of("2020-01-01T00:00+00:00", zone="Europe/Berlin", name="2026-03") == 3 * 743
    assert of("2020-01-01T00:00+00:00", zone="Europe/Berlin", name="2026-10") == 3 * 745
    assert of("2020-01-01T00:00+00:00", name="2028-02") == 3 * 29 * 24


def test_throughput_by_the_month() -> None:
    invoice = made(agreements=[agreed(Provisioned("m7", 4, 250_000, "month"), "2026-11-01T00:00+09:00")])
    assert [(line.kind, line.unit, line.quantity, line.yen) for line in invoice.lines] == [
        ("provisioned", "month", 4, 1_000_000)
    ]


def a_credit(name: str, left: int, expires: str, granted: str = "2026-01-01T00:00+09:00") -> Credit:
    return Credit(name, "t", left, us(granted), us(expires), left)


def uses(given_credits: Sequence[Credit], yen: int = 1_000) -> tuple[tuple[CreditUse, ...], Invoice]:
    """What a month of `yen` without tax (1,100 with it) takes."""
    invoice, taken = assemble(HEADER, replace(BASIS, agreements=[agreed(Commitment(yen), "2026-01-01T00:00+09:00")],
                                              credits=given_credits))  # fmt: skip
    return taken, invoice


def test_credit_that_expires_first_is_used_first_and_its_rest_ends_with_the_month() -> None:
    later, sooner = a_credit("late", 5_000, "2027-05-01T00:00+09:00"), a_credit("soon", 300, "2026-11-15T00:00+09:00")
    taken, invoice = uses([later, sooner])
    assert taken == (CreditUse("soon", 300, 0), CreditUse("late", 800, 0))
    assert (invoice.total_yen, invoice.prepaid_yen, invoice.payable_yen) == (1_100, 1_100, 0)
    taken, _ = uses([a_credit("big", 9_000, "2026-12-01T00:00+09:00")])
    assert taken == (CreditUse("big", 1_100, 7_900),)


def test_credit_counts_only_for_months_that_it_touches() -> None:
    gone = a_credit("gone", 500, "2026-11-01T00:00+09:00")
    to_come = a_credit("to-come", 500, "2027-11-01T00:00+09:00", granted="2026-12-01T00:00+09:00")
    taken, invoice = uses([gone, to_come])
    assert taken == (CreditUse("gone", 0, 500),)
    assert (invoice.prepaid_yen, invoice.payable_yen) == (0, 1_100)


def test_adjustment_is_the_difference_between_the_month_and_what_was_settled() -> None:
    tiers = Graduated((Step(1_000_000, 480), Step(None, 300)))
    card = replace(FLAT, terms=Terms(tiers={"output": tiers}))
    invoice = made(Quantity(card, "output", 3_000_000), Quantity(card, "input", 1_000_000))
    booked = {("c1", "output"): 3 * 480_000_000, ("c1", "input"): 120_000_000}
    adjusting = [entry for entry in closing_entries(invoice, booked, ()) if entry.source == "adjustment"]
    assert [(one.debit, one.credit, one.micro_yen) for one in adjusting] == [
        ("revenue:m1", "receivable:t", 360_000_000)
    ]


@pytest.mark.parametrize(
    "booked", [{}, {("c1", "input"): 119_999_999}, {("c1", "input"): 120_000_000, ("c1", "output"): 1}]
)
def test_flat_kind_that_was_booked_otherwise_is_a_finding(booked: dict[tuple[str, str], int]) -> None:
    invoice = made(Quantity(FLAT, "input", 1_000_000))
    with pytest.raises(InvoiceRefused) as refused:
        closing_entries(invoice, booked, ())
    assert refused.value.code == "books_differ"


def test_day_without_a_tax_rate_is_refused() -> None:
    with pytest.raises(InvoiceRefused) as refused:
        made(Quantity(REDUCED, "input", 1), rates={"standard": 100})
    assert refused.value.code == "tax_rate_missing"


def test_document_is_one_text_whatever_order_its_facts_came_in() -> None:
    quantities = [Quantity(FLAT, "output", 7), Quantity(REDUCED, "input", 8), Quantity(FLAT, "input", 9)]
    texts = {encode(made(*order)) for order in (quantities, reversed(quantities))}
    assert len(texts) == 1
    (text,) = texts
    assert encode(decode(text)) == text
    assert "." not in text.replace(HEADER.tenant_id, "")  # no number of a document has a decimal point
