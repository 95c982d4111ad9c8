"""What a document calls things, in Japanese and English (`words.yaml`)."""

from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from billing.invoices.types import Line

Language = Literal["ja", "en"]

_MICRO = 1_000_000


@cache
def words(language: Language) -> dict[str, Any]:
    """The texts of one language."""
    text = resources.files("billing.exports").joinpath("words.yaml").read_text(encoding="utf-8")
    entry: dict[str, Any] = yaml.safe_load(text)[language]
    return entry


def percent(permille: int) -> str:
    """A tax rate as people write it: 100 → `10`, 78 → `7.8`."""
    whole, tenth = divmod(permille, 10)
    return f"{whole}.{tenth}" if tenth else str(whole)


def content(line: Line, language: Language) -> str:
    """What the line charges for. Kinds of tokens that have no word yet keep their own name."""
    known = words(language)
    token_kind = known["token_kind"].get(line.token_kind, line.token_kind)
    text: str = known["line"][line.kind].format(model=line.model, token_kind=token_kind)
    return " ".join(text.split()) + (known["tier"].format(tier=line.tier) if line.tier else "")


def unit(line: Line, language: Language, count: int) -> str:
    """The unit in which the quantity is counted, as `count` of them are called."""
    one, many = words(language)["unit"][line.unit]
    return str(one if count == 1 else many)


def per(line: Line, language: Language) -> str:
    """What follows the unit price: how many units it buys."""
    texts = words(language)["per"]
    known: str = texts.get(str(line.per), f"/{line.per:,} {{unit}}")
    return known.format(unit=unit(line, language, line.per))


def explained(line: Line) -> bool:
    """Whether quantity and unit price give the amount, up to the fraction that is carried.

    They do not where only a part of a line is given back: then quantity and price belong to the original line.
    """
    exact = line.quantity * line.unit_price * _MICRO
    return abs(line.yen * _MICRO * line.per - exact) < _MICRO * line.per
