"""Months end where the tenant's own clocks say so; registration numbers carry a check digit."""

from datetime import date

import pytest

from billing.invoices.numbers import series_year
from billing.invoices.period import due_on, following, month_at, month_of
from billing.invoices.refused import InvoiceRefused
from billing.invoices.registration import is_registration_number
from tests.billing.books import us


@pytest.mark.parametrize(
    ("name", "zone", "start", "end", "last_day"),
    [
        ("2026-11", "Asia/Tokyo", "2026-11-01T00:00+09:00", "2026-12-01T00:00+09:00", date(2026, 11, 30)),
        ("2028-02", "Asia/Tokyo", "2028-02-01T00:00+09:00", "2028-03-01T00:00+09:00", date(2028, 2, 29)),
        ("2026-12", "Asia/Kolkata", "2026-12-01T00:00+05:30", "2027-01-01T00:00+05:30", date(2026, 12, 31)),
        ("2026-03", "Europe/Berlin", "2026-03-01T00:00+01:00", "2026-04-01T00:00+02:00", date(2026, 3, 31)),
        ("2026-11", "America/New_York", "2026-11-01T00:00-04:00", "2026-12-01T00:00-05:00", date(2026, 11, 30)),
        # Clocks in Asunción skipped the first hour of 2017-10-01: the month began when they did.
        ("2017-10", "America/Asuncion", "2017-10-01T01:00-03:00", "2017-11-01T00:00-03:00", date(2017, 10, 31)),
    ],
)
def test_month_is_that_of_the_zone(name: str, zone: str, start: str, end: str, last_day: date) -> None:
    month = month_of(name, zone)
    assert (month.start, month.end, month.last_day) == (us(start), us(end), last_day)
    assert month_at(month.start, zone) == name and month_at(month.start - 1, zone) != name
    assert month_at(month.end, zone) == following(name)
    assert month_of(following(name), zone).start == month.end


@pytest.mark.parametrize("name", ["2026-13", "2026-00", "202611", "2026-1", "2026-11 ", "２０２６-11", "", "1999-01"])
def test_what_is_no_month_is_refused(name: str) -> None:
    with pytest.raises(InvoiceRefused) as refused:
        month_of(name, "Asia/Tokyo")
    assert (refused.value.code, refused.value.field) == ("period_invalid", "period")


@pytest.mark.parametrize(
    ("last_day", "issued_on", "months", "due"),
    [
        (date(2026, 11, 30), date(2026, 12, 1), 1, date(2026, 12, 31)),
        (date(2026, 12, 31), date(2027, 1, 5), 1, date(2027, 1, 31)),
        (date(2027, 12, 31), date(2028, 1, 5), 2, date(2028, 2, 29)),
        (date(2026, 11, 30), date(2027, 3, 2), 1, date(2027, 3, 31)),  # late: never due before it was written
        (date(2026, 11, 30), date(2026, 12, 1), 0, date(2026, 12, 1)),
    ],
)
def test_money_is_due_at_the_end_of_a_month(last_day: date, issued_on: date, months: int, due: date) -> None:
    assert due_on(last_day, issued_on, months) == due


def test_series_begin_with_the_issuers_year() -> None:
    assert [series_year(date(2026, month, 1), 4) for month in (3, 4, 12)] == [2025, 2026, 2026]
    assert series_year(date(2026, 1, 1), 1) == 2026


@pytest.mark.parametrize("number", ["T8700110005901", "T5835678256246", "T7000012050002"])
def test_registration_number_with_its_check_digit(number: str) -> None:
    assert is_registration_number(number)
    wrong = "T" + str((int(number[1]) + 1) % 10) + number[2:]
    assert not is_registration_number(wrong)


@pytest.mark.parametrize(
    "number", ["T1234567890123", "8700110005901", "T870011000590", "Ｔ8700110005901", "", "T87001100059０1"]
)
def test_what_is_no_registration_number(number: str) -> None:
    assert not is_registration_number(number)
