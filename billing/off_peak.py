"""Which of a card's price lists applies to a request: batch, quiet hours, or the ordinary one. Pure."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from billing.prices import QUARTER_HOUR_US, BadTerms, OffPeak, PriceList, Variant
from billing.rating import RateCard

BATCH = "batch"
_QUARTERS_A_DAY = 96
_CLOCK = re.compile(r"([0-9]{2}):([0-9]{2})")
_QUARTER_S = QUARTER_HOUR_US // 1_000_000


def priced_at(card: RateCard, at: int, action: str) -> RateCard:
    """`card` with the prices of a request for `action` that was opened at `at` (microseconds since the epoch).

    A batch has the batch's prices at every hour.
    """
    terms = card.terms
    if action == BATCH and terms.batch is not None:
        return _with(card, terms.batch, "batch")
    quiet = terms.off_peak
    if action != BATCH and quiet is not None and is_quiet(quiet, at // QUARTER_HOUR_US):
        return _with(card, quiet.prices, "off_peak")
    return card


@lru_cache(maxsize=4_096)
def is_quiet(quiet: OffPeak, quarter: int) -> bool:
    """Whether the quarter of an hour with this number since the epoch lies in the quiet hours.

    Every zone's offset is a multiple of 15 minutes today, so none lies in them by half.
    """
    local = datetime.fromtimestamp(quarter * _QUARTER_S, UTC).astimezone(ZoneInfo(quiet.zone))
    now, begins, ends = local.hour * 4 + local.minute // 15, _quarter(quiet.begins), _quarter(quiet.ends)
    day = local.isoweekday()
    if begins < ends:
        inside = begins <= now < ends
    else:
        inside = now >= begins or now < ends
        if now < ends:
            day = (local.date() - timedelta(days=1)).isoweekday()
    return inside and (not quiet.days or day in quiet.days)


def check_off_peak(quiet: OffPeak) -> None:
    """Raises `BadTerms` for hours or a zone that do not exist."""
    try:
        ZoneInfo(quiet.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadTerms("terms.off_peak.zone", "the IANA name of a zone") from error
    for field, text in (("begins", quiet.begins), ("ends", quiet.ends)):
        try:
            _quarter(text)
        except ValueError as error:
            raise BadTerms(f"terms.off_peak.{field}", "HH:MM, a whole quarter of an hour") from error
    if any(day not in range(1, 8) for day in quiet.days):
        raise BadTerms("terms.off_peak.days", "1 (Monday) to 7 (Sunday)")


def _quarter(text: str) -> int:
    """Quarters of an hour since midnight of `HH:MM`; `24:00` is the end of the day."""
    found = _CLOCK.fullmatch(text)
    if found is None:
        raise ValueError(text)
    hours, minutes = int(found[1]), int(found[2])
    quarter, rest = divmod(hours * 60 + minutes, 15)
    if minutes > 59 or rest or quarter > _QUARTERS_A_DAY:
        raise ValueError(text)
    return quarter


def _with(card: RateCard, prices: PriceList, variant: Variant) -> RateCard:
    return replace(
        card, input_price=prices.input, cached_input_price=prices.cached_input, output_price=prices.output,
        image_price=prices.image, audio_price=prices.audio, variant=variant,
    )  # fmt: skip
