"""What a tenant has agreed to pay besides tokens, and what it has paid ahead. Values and their stored form; pure.

An agreement by the month counts for every month that begins while it is in force; one that begins within a month has
its first month after that.
"""

import re
from dataclasses import dataclass

import msgspec

from billing.prices import PRICE_MAX, BadTerms, TaxCategory

HOUR_US = 3_600_000_000
HOURS_MAX = 745
"""Full hours of a month of 31 days in which clocks go back."""

UNITS_MAX = 10**6
MONTH_YEN_MAX = 10**12
"""What one agreement may charge a month: with it sums of micro-yen stay within PostgreSQL's bigint."""

MODELS_MAX = 256
_MODEL = re.compile(r"[A-Za-z0-9._:/-]{1,64}")
_MODEL_DETAIL = "1 to 64 letters, digits and . _ : / -"


class Commitment(msgspec.Struct, frozen=True, tag_field="kind", tag="commitment", forbid_unknown_fields=True):
    """At least `minimum_yen` a month, without tax, for the lines of `models` (empty: of all). What is missing is
    charged as one line."""

    minimum_yen: int
    models: tuple[str, ...] = ()
    tax: TaxCategory = "standard"


class Provisioned(msgspec.Struct, frozen=True, tag_field="kind", tag="provisioned", forbid_unknown_fields=True):
    """`units` of throughput of `model`, held free for the tenant whether it asks or not, for `unit_price` yen each per
    full hour or per month. Tokens that run on them are charged by the tenant's rate card, which may say zero."""

    model: str
    units: int
    unit_price: int
    per: str
    tax: TaxCategory = "standard"


Terms = Commitment | Provisioned


@dataclass(frozen=True, slots=True)
class Agreement:
    """Terms of one tenant for [`effective_from`, `effective_to`) in microseconds since the epoch; where both are equal
    it was withdrawn before it began, and is never in force."""

    agreement_id: str
    tenant_id: str
    effective_from: int
    effective_to: int | None
    terms: Terms

    def covers(self, at: int) -> bool:
        """Whether it is in force at the time `at`."""
        return self.effective_from <= at and (self.effective_to is None or at < self.effective_to)

    def full_hours(self, start: int, end: int) -> int:
        """Full hours of [`start`, `end`) during which it is in force: hours that pass, not hours that clocks show."""
        first = max(start, self.effective_from)
        last = end if self.effective_to is None else min(end, self.effective_to)
        return max(0, last - first) // HOUR_US


@dataclass(frozen=True, slots=True)
class Credit:
    """`yen` paid ahead, of which `left_yen` are left; usable for months that it touches: granted before their end, and
    not expired at their start. Microseconds since the epoch."""

    credit_id: str
    tenant_id: str
    yen: int
    granted_at: int
    expires_at: int
    left_yen: int


def parse_agreement(text: str | bytes) -> Terms:
    """Terms as they are stored. Raises `BadTerms` for a form that does not exist."""
    try:
        terms: Terms = msgspec.json.decode(text, type=Terms, strict=True)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `$")
        raise BadTerms("terms" + path.rstrip("`"), detail) from error
    return terms


def dump_agreement(terms: Terms) -> str:
    """Terms as they are stored."""
    return msgspec.json.encode(terms, order="sorted").decode()


def check_agreement(agreement: Agreement) -> None:
    """Raises `BadTerms` for terms that mean nothing."""
    terms = agreement.terms
    if agreement.effective_to is not None and agreement.effective_to < agreement.effective_from:
        raise BadTerms("effective_to", "effective_from (then it is never in force) or later")
    if isinstance(terms, Commitment):
        if not 0 < terms.minimum_yen <= MONTH_YEN_MAX:
            raise BadTerms("terms.minimum_yen", f"1 to {MONTH_YEN_MAX}")
        _check_models(terms.models)
        return
    if _MODEL.fullmatch(terms.model) is None:
        raise BadTerms("terms.model", _MODEL_DETAIL)
    if terms.per not in ("hour", "month"):
        raise BadTerms("terms.per", "hour or month")
    if not 0 < terms.units <= UNITS_MAX:
        raise BadTerms("terms.units", f"1 to {UNITS_MAX}")
    if not 0 <= terms.unit_price <= PRICE_MAX:
        raise BadTerms("terms.unit_price", f"0 to {PRICE_MAX}")
    times = HOURS_MAX if terms.per == "hour" else 1
    if terms.units * terms.unit_price * times > MONTH_YEN_MAX:
        raise BadTerms("terms.unit_price", f"at most {MONTH_YEN_MAX} yen a month for all units")


def _check_models(models: tuple[str, ...]) -> None:
    if len(models) > MODELS_MAX:
        raise BadTerms("terms.models", f"at most {MODELS_MAX}")
    if len(set(models)) != len(models):
        raise BadTerms("terms.models", "a model is listed twice")
    for number, model in enumerate(models):
        if _MODEL.fullmatch(model) is None:
            raise BadTerms(f"terms.models[{number}]", _MODEL_DETAIL)
