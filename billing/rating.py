"""Pure rating: token counts and a dated rate card give price lines in integer micro-yen. No clock, no IO."""

from dataclasses import dataclass

from billing.types import Line, Usage


@dataclass(frozen=True, slots=True)
class RateCard:
    """Unit prices of one model for the time [`effective_from`, `effective_to`) in microseconds since the epoch.

    Prices are integer yen per 1M tokens, which equals micro-yen per token, so no division and no float occurs.
    """

    rate_card_id: str
    model: str
    effective_from: int
    effective_to: int | None
    input_price: int
    cached_input_price: int
    output_price: int

    def covers(self, at: int) -> bool:
        """Whether the card is in force at the time `at` (microseconds since the epoch)."""
        return self.effective_from <= at and (self.effective_to is None or at < self.effective_to)


def rate(usage: Usage, card: RateCard) -> tuple[Line, ...]:
    """Price lines of `usage`; a kind of which nothing was used has no line.

    Cached tokens are part of the prompt and are priced once, at their own price.
    """
    priced = (
        Line("input", usage.prompt - usage.cached, card.input_price),
        Line("cached_input", usage.cached, card.cached_input_price),
        Line("output", usage.completion, card.output_price),
    )
    return tuple(line for line in priced if line.quantity > 0)


def upper_bound(prompt_tokens: int, completion_tokens: int, card: RateCard) -> int:
    """The most that these tokens can cost in micro-yen, whatever part of the prompt turns out to be cached."""
    return prompt_tokens * max(card.input_price, card.cached_input_price) + completion_tokens * card.output_price
