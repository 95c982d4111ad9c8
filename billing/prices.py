"""How prices may be stated besides one unit price per kind: tiers, packages, prices of batches and of quiet hours.

Stored as JSON beside a rate card's three columns (`docs/billing.md` shows every form). Unit prices are integer yen per
1M tokens, which is the same number as micro-yen per token. Pure.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

MICRO = 1_000_000
"""Micro-yen in a yen."""

QUARTER_HOUR_US = 15 * 60 * 1_000_000
KINDS = ("input", "cached_input", "image", "audio", "output")
PRICE_MAX = 10**9
"""Yen per 1M tokens. With it no sum of a month leaves PostgreSQL's bigint."""

TaxCategory = Literal["standard", "reduced"]
Variant = Literal["", "batch", "off_peak"]
"""Which of a card's price lists applies; '' is the ordinary one."""


class BadTerms(ValueError):
    """Prices that mean nothing. `field` names what is wrong, as a path within the card."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A unit price for the month's tokens up to `up_to` (inclusive); None for all that follow."""

    up_to: int | None
    price: int


class Graduated(msgspec.Struct, frozen=True, tag_field="model", tag="graduated", forbid_unknown_fields=True):
    """Each token is priced by the step that it falls into."""

    steps: tuple[Step, ...]


class Volume(msgspec.Struct, frozen=True, tag_field="model", tag="volume", forbid_unknown_fields=True):
    """All tokens of the month are priced by the step that the last one falls into."""

    steps: tuple[Step, ...]


class Package(msgspec.Struct, frozen=True, tag_field="model", tag="package", forbid_unknown_fields=True):
    """Blocks of `tokens` for `yen` each; a block that was begun is paid whole. What is left of it ends with the
    month."""

    tokens: int
    yen: int


PriceModel = Graduated | Volume | Package


class PriceList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Unit prices of every kind. Media without a price of their own cost what input costs."""

    input: int
    cached_input: int
    output: int
    image: int | None = None
    audio: int | None = None


class OffPeak(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices of requests that were opened from `begins` to `ends` (`HH:MM` of the IANA zone `zone`, whole quarters of
    an hour; over midnight when `ends` is not later), on the days `days` (1 Monday … 7 Sunday; empty: every day). A
    stretch over midnight belongs to the day on which it began."""

    zone: str
    begins: str
    ends: str
    prices: PriceList
    days: tuple[int, ...] = ()


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a card says beyond its three unit prices. `tiers` are price models by kind; they hold for the ordinary list
    only, and tokens of batches and quiet hours do not count in them."""

    image: int | None = None
    audio: int | None = None
    tiers: Mapping[str, PriceModel] = MappingProxyType({})
    batch: PriceList | None = None
    off_peak: OffPeak | None = None
    tax: TaxCategory = "standard"


NO_TERMS = Terms()


def parse_terms(text: str | bytes) -> Terms:
    """Terms as they are stored. Raises `BadTerms` for a form that does not exist."""
    if text in ("{}", b"{}"):
        return NO_TERMS
    try:
        return msgspec.json.decode(text, type=Terms, strict=True)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `$")
        raise BadTerms("terms" + path.rstrip("`"), detail) from error


def dump_terms(terms: Terms) -> str:
    """Terms as they are stored: sorted keys, nothing that is a default."""
    return msgspec.json.encode(terms, order="sorted").decode()


def provisional(model: PriceModel) -> int:
    """What settlement books per token while the month's quantity is not known: the first step's price; of a package its
    price per token, rounded up."""
    if isinstance(model, Package):
        return -(-model.yen * MICRO // model.tokens)
    return model.steps[0].price


def check_model(field: str, model: PriceModel) -> None:
    """Raises `BadTerms` unless the steps ascend to an open end, or the package holds something."""
    if isinstance(model, Package):
        if model.tokens < 1:
            raise BadTerms(f"{field}.tokens", "at least 1")
        check_price(f"{field}.yen", model.yen)
        check_price(field, provisional(model))
        return
    if not model.steps:
        raise BadTerms(f"{field}.steps", "at least one")
    below = 0
    for number, step in enumerate(model.steps):
        where = f"{field}.steps[{number}]"
        check_price(f"{where}.price", step.price)
        last = number == len(model.steps) - 1
        if last != (step.up_to is None):
            raise BadTerms(f"{where}.up_to", "null in the last step, and there only")
        if step.up_to is not None:
            if step.up_to <= below:
                raise BadTerms(f"{where}.up_to", f"more than {below}")
            below = step.up_to


def check_price(field: str, price: int | None) -> None:
    """Raises `BadTerms` for a price below zero or beyond what sums can hold."""
    if price is not None and not 0 <= price <= PRICE_MAX:
        raise BadTerms(field, f"0 to {PRICE_MAX}")


def check_list(field: str, prices: PriceList) -> None:
    """Raises `BadTerms` for a price out of bounds."""
    for kind in KINDS:
        check_price(f"{field}.{kind}", getattr(prices, kind))
