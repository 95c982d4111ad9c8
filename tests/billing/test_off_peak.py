"""Batch and quiet hours have their own prices, by the clock of the card's zone."""

import pytest

from billing.off_peak import check_off_peak, priced_at
from billing.prices import BadTerms, OffPeak, PriceList, Terms, dump_terms, parse_terms
from billing.rating import RateCard, rate
from billing.types import Usage
from tests.billing.books import us

NIGHT = OffPeak("Asia/Tokyo", "22:00", "06:00", PriceList(60, 30, 240))
BATCH = PriceList(50, 25, 200, image=40)


def card(quiet: OffPeak | None = NIGHT, batch: PriceList | None = BATCH) -> RateCard:
    terms = Terms(image=200, batch=batch, off_peak=quiet)
    return RateCard("c", "m", 0, None, 120, 60, 480, terms=terms, image_price=200)


def variant(at: str, quiet: OffPeak = NIGHT, action: str = "chat") -> str:
    return priced_at(card(quiet), us(at), action).variant


def test_night_begins_and_ends_by_the_clock_of_the_zone() -> None:
    at = {"21:59:59": "", "22:00:00": "off_peak", "00:00:00": "off_peak", "05:59:59": "off_peak", "06:00:00": ""}
    assert {clock: variant(f"2026-11-24T{clock}+09:00") for clock in at} == at


def test_batch_has_its_price_at_every_hour() -> None:
    assert [variant(f"2026-11-24T{hour}:00+09:00", action="batch") for hour in ("03", "12")] == ["batch", "batch"]
    assert priced_at(card(batch=None), us("2026-11-24T03:00+09:00"), "batch").variant == ""


def test_lines_carry_the_list_that_priced_them() -> None:
    usage = Usage(100, 10, 5, image=50)
    night = rate(usage, priced_at(card(), us("2026-11-24T03:00+09:00"), "chat"))
    assert [(line.kind, line.quantity, line.unit_price) for line in night] == [
        ("input:off_peak", 90, 60), ("cached_input:off_peak", 10, 30), ("output:off_peak", 5, 240),
    ]  # fmt: skip
    batch = {line.kind: line.unit_price for line in rate(usage, priced_at(card(), 0, "batch"))}
    assert batch == {"input:batch": 50, "cached_input:batch": 25, "image:batch": 40, "output:batch": 200}


def test_hours_follow_the_clock_when_it_is_put_forward_and_back() -> None:
    quiet = hours("America/New_York", "02:00", "03:00")
    # 2026-03-08 the hour from two to three does not exist there; 2026-11-01 the one from one to two comes twice.
    assert [variant(f"2026-03-08T{clock}", quiet) for clock in ("06:59+00:00", "07:00+00:00")] == ["", ""]
    quiet = hours("America/New_York", "01:00", "02:00")
    assert [variant(f"2026-11-01T{clock}+00:00", quiet) for clock in ("04:59", "05:00", "06:59", "07:00")] == [
        "", "off_peak", "off_peak", "",
    ]  # fmt: skip


def test_half_hour_zone() -> None:
    quiet = hours("Asia/Kolkata", "00:00", "06:30")
    assert [variant(f"2026-11-24T{clock}+05:30", quiet) for clock in ("23:59", "00:00", "06:29", "06:30")] == [
        "", "off_peak", "off_peak", "",
    ]  # fmt: skip


def test_stretch_over_midnight_belongs_to_the_day_on_which_it_began() -> None:
    quiet = OffPeak("Asia/Tokyo", "22:00", "06:00", PriceList(1, 1, 1), days=(5,))  # from Friday evening
    at = {
        "2026-11-27T05:00": "",
        "2026-11-27T23:00": "off_peak",
        "2026-11-28T05:00": "off_peak",
        "2026-11-28T23:00": "",
    }
    assert {time: variant(f"{time}+09:00", quiet) for time in at} == at


def test_terms_come_back_as_they_were_written() -> None:
    terms = card().terms
    assert parse_terms(dump_terms(terms)) == terms
    assert dump_terms(Terms()) == "{}"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"discount":10}', "terms"),
        ('{"batch":{"input":1.5,"cached_input":1,"output":1}}', "terms.batch.input"),
        ('{"tiers":{"input":{"model":"magic"}}}', "terms.tiers[...].model"),
    ],
)
def test_stored_terms_of_another_form_are_refused(text: str, field: str) -> None:
    with pytest.raises(BadTerms) as refused:
        parse_terms(text)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("quiet", "field"),
    [
        (OffPeak("Asia/Edo", "22:00", "06:00", BATCH), "zone"),
        (OffPeak("../etc/passwd", "22:00", "06:00", BATCH), "zone"),
        (OffPeak("Asia/Tokyo", "22:10", "06:00", BATCH), "begins"),
        (OffPeak("Asia/Tokyo", "22:00", "+6:00", BATCH), "ends"),
        (OffPeak("Asia/Tokyo", "22:00", "24:15", BATCH), "ends"),
        (OffPeak("Asia/Tokyo", "22:00", "06:00", BATCH, (0,)), "days"),
    ],
)
def test_hours_that_do_not_exist_are_refused(quiet: OffPeak, field: str) -> None:
    with pytest.raises(BadTerms) as refused:
        check_off_peak(quiet)
    assert refused.value.field == f"terms.off_peak.{field}"


def hours(zone: str, begins: str, ends: str) -> OffPeak:
    return OffPeak(zone, begins, ends, PriceList(1, 1, 1))
