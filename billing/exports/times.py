"""Times and dates of a document, in integers only."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from billing.invoices.types import Invoice

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(microseconds: int) -> datetime:
    """The time `microseconds` after the epoch, in UTC. `datetime.fromtimestamp` would go through a float."""
    return _EPOCH + timedelta(microseconds=microseconds)


def utc_text(microseconds: int) -> str:
    """`YYYY-MM-DDTHH:MM:SSZ`, the fraction of a second cut off."""
    return moment(microseconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def period_dates(invoice: Invoice) -> tuple[date, date]:
    """First and last day of the period, both inclusive, on the calendar of the tenant's zone."""
    zone = ZoneInfo(invoice.zone)
    first = moment(invoice.period_start).astimezone(zone).date()
    last = moment(invoice.period_end - 1).astimezone(zone).date()
    return first, max(first, last)
