"""Pure rating of a month: what a kind's whole quantity costs by its price model. No clock, no IO."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from billing.prices import MICRO, Graduated, Package, PriceModel, Volume
from billing.rating import RateCard

PER_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Charge:
    """A price line of a month before it is rounded. `unit_price` in whole yen per `per` units (1M tokens, or 1)."""

    kind: Literal["usage", "package"]
    model: str
    token_kind: str
    tier: str
    rate_card_id: str
    quantity: int
    unit_price: int

    @property
    def per(self) -> int:
        """Units that one unit price buys."""
        return PER_MILLION if self.kind == "usage" else 1

    @property
    def micro_yen(self) -> int:
        """The exact amount; a unit price in yen per 1M tokens is one in micro-yen per token."""
        return self.quantity * self.unit_price * MICRO // self.per


def charges(card: RateCard, kind: str, quantity: int) -> tuple[Charge, ...]:
    """The price lines of a month's `quantity` tokens of `kind` under `card`; none of nothing.

    A variant of a card has one unit price per kind and names itself where a tier would stand.
    """
    if quantity == 0:
        return ()
    model = None if card.variant else card.terms.tiers.get(kind)
    if model is None:
        return (_usage(card, kind, card.variant, quantity, card.price(kind)),)
    if isinstance(model, Package):
        blocks = -(-quantity // model.tokens)
        return (Charge("package", card.model, kind, f"{model.tokens}", card.rate_card_id, blocks, model.yen),)
    return tuple(_usage(card, kind, tier, part, price) for tier, part, price in _steps(model, quantity))


def _usage(card: RateCard, kind: str, tier: str, quantity: int, unit_price: int) -> Charge:
    return Charge("usage", card.model, kind, tier, card.rate_card_id, quantity, unit_price)


def _steps(model: PriceModel, quantity: int) -> Iterator[tuple[str, int, int]]:
    """(tier, tokens, unit price) of every step that has any."""
    assert isinstance(model, Graduated | Volume)
    below = 0
    for step in model.steps:
        top = quantity if step.up_to is None else min(quantity, step.up_to)
        tier = f"{below + 1}-{'' if step.up_to is None else step.up_to}"
        if isinstance(model, Graduated):
            yield tier, top - below, step.price
        elif top == quantity:
            yield tier, quantity, step.price
        if top == quantity:
            return
        below = top
