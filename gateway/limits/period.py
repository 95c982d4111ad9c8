"""Calendar months of a tenant's zone: which one a moment falls into, and when it ends."""

from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

_QUARTER_HOUR_S = 15 * 60
_QUARTER_HOUR_US = _QUARTER_HOUR_S * 1_000_000


def period_of(at_us: int, zone: str) -> str:
    """The calendar month `YYYYMM` of `zone` that the time `at_us` (microseconds since the epoch) falls into."""
    return _period_of_quarter(at_us // _QUARTER_HOUR_US, zone)


@lru_cache(maxsize=1_024)
def _period_of_quarter(quarter: int, zone: str) -> str:
    # Every zone's offset is a multiple of 15 minutes today, so no month begins within a quarter of an hour.
    return datetime.fromtimestamp(quarter * _QUARTER_HOUR_S, ZoneInfo(zone)).strftime("%Y%m")


@lru_cache(maxsize=1_024)
def end_of(period: str, zone: str) -> int:
    """The first second after the month `period` (`YYYYMM`) in `zone`, in seconds since the epoch."""
    year, month = int(period[:4]), int(period[4:])
    first = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=ZoneInfo(zone))
    return int(first.timestamp())
