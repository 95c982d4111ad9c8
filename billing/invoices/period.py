"""Months of a tenant's zone, as time between two moments. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from billing.invoices.refused import InvoiceRefused

_MONTH = re.compile(r"(20[0-9]{2})-(0[1-9]|1[0-2])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Period:
    """The month `name` (`YYYY-MM`) of `zone`: [`start`, `end`) in microseconds since the epoch.

    It ends at the first moment of the next month. It begins where the one before ended, which is the first moment of
    the month unless the tenant's zone was changed in between.
    """

    name: str
    zone: str
    start: int
    end: int

    @property
    def last_day(self) -> date:
        """The last calendar day of it."""
        return month_end(*_parsed(self.name))


def month_of(name: str, zone: str, start: int | None = None) -> Period:
    """The month `name` in `zone`; with `start` it begins there. Raises `InvoiceRefused` for what is no month."""
    year, month = _parsed(name)
    return Period(
        name, zone, _midnight(year, month, zone) if start is None else start, _midnight(*_next(year, month), zone)
    )


def month_at(at: int, zone: str) -> str:
    """The name of the month that the time `at` (microseconds since the epoch) falls into."""
    return day_at(at, zone).strftime("%Y-%m")


def day_at(at: int, zone: str) -> date:
    """The calendar day of `zone` at the time `at`."""
    return (_EPOCH + timedelta(microseconds=at)).astimezone(ZoneInfo(zone)).date()


def following(name: str) -> str:
    """The name of the next month."""
    year, month = _next(*_parsed(name))
    return f"{year:04d}-{month:02d}"


def month_end(year: int, month: int) -> date:
    """The last day of a month."""
    return date(*_next(year, month), 1) - timedelta(days=1)


def due_on(last_day: date, issued_on: date, months: int) -> date:
    """The last day of the `months`-th month after the one that was charged, or after the one before `issued_on` when
    the document comes late (月末締め翌月末払い is one month)."""
    closed = max(last_day, issued_on.replace(day=1) - timedelta(days=1))
    count = closed.year * 12 + closed.month - 1 + months
    return max(issued_on, month_end(count // 12, count % 12 + 1))


def _parsed(name: str) -> tuple[int, int]:
    found = _MONTH.fullmatch(name)
    if found is None:
        raise InvoiceRefused("period_invalid", "period", f"{name[:40]!r} is not a month like 2026-11")
    return int(found[1]), int(found[2])


def _next(year: int, month: int) -> tuple[int, int]:
    return (year + 1, 1) if month == 12 else (year, month + 1)


def _midnight(year: int, month: int, zone: str) -> int:
    """The month's first moment. Where clocks skip it, that is the moment at which they do."""
    return (datetime(year, month, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
