"""Pure rating: token counts and a dated rate card give price lines in integer micro-yen. No clock, no IO.

A line's price here is *provisional* where the card has tiers or packages: the first step's price, a package's price per
token. What a month costs is rated when it is closed (`billing.month`), and the difference is booked then.
"""

from dataclasses import dataclass

from billing.prices import NO_TERMS, BadTerms, Terms, Variant, check_list, check_model, check_price, provisional
from billing.types import Line, Usage

PUBLISHED = "published"
"""The family of cards for grants that name none."""


@dataclass(frozen=True, slots=True)
class RateCard:
    """Prices of one model for the time [`effective_from`, `effective_to`) in microseconds since the epoch.

    Prices are integer yen per 1M tokens, which equals micro-yen per token, so no division and no float occurs.
    `tenant_id` is None for a card of everybody in its family. `variant` says which of its lists the prices are
    (`billing.off_peak.priced_at` chooses).
    """

    rate_card_id: str
    model: str
    effective_from: int
    effective_to: int | None
    input_price: int
    cached_input_price: int
    output_price: int
    family: str = PUBLISHED
    tenant_id: str | None = None
    terms: Terms = NO_TERMS
    image_price: int | None = None
    audio_price: int | None = None
    variant: Variant = ""

    def covers(self, at: int) -> bool:
        """Whether the card is in force at the time `at` (microseconds since the epoch)."""
        return self.effective_from <= at and (self.effective_to is None or at < self.effective_to)

    def price(self, kind: str) -> int:
        """The unit price of a kind. Media without a price of their own cost what input costs."""
        prices = {
            "input": self.input_price,
            "cached_input": self.cached_input_price,
            "image": self.image_price,
            "audio": self.audio_price,
            "output": self.output_price,
        }
        price = prices[kind]
        return self.input_price if price is None else price


@dataclass(frozen=True, slots=True)
class Parts:
    """A prompt and its answer, cut so that every token is in exactly one part."""

    input: int
    cached_input: int
    image: int
    audio: int
    output: int


def split(usage: Usage) -> Parts:
    """Cached tokens come first, whatever they are; then images, then audio; what remains of the prompt is text.

    Reasoning tokens are part of the output.
    """
    fresh = usage.prompt - usage.cached
    image = min(usage.image, fresh)
    audio = min(usage.audio, fresh - image)
    return Parts(fresh - image - audio, usage.cached, image, audio, usage.completion)


def by_kind(parts: Parts, card: RateCard) -> tuple[tuple[str, int], ...]:
    """The quantities by the kinds that the card prices; media that it has no price for are input."""
    image, audio = card.image_price is not None, card.audio_price is not None
    text = parts.input + (0 if image else parts.image) + (0 if audio else parts.audio)
    return (
        ("input", text),
        ("cached_input", parts.cached_input),
        ("image", parts.image if image else 0),
        ("audio", parts.audio if audio else 0),
        ("output", parts.output),
    )


def booked_kind(kind: str, variant: Variant) -> str:
    """What a line in the ledger is called: `output`, `output:batch`, `output:off_peak`."""
    return f"{kind}:{variant}" if variant else kind


def rate(usage: Usage, card: RateCard) -> tuple[Line, ...]:
    """Price lines of `usage`; a kind of which nothing was used has no line.

    Cached tokens are part of the prompt and are priced once, at their own price.
    """
    return tuple(
        Line(booked_kind(kind, card.variant), quantity, card.price(kind))
        for kind, quantity in by_kind(split(usage), card)
        if quantity > 0
    )


def upper_bound(prompt_tokens: int, completion_tokens: int, card: RateCard) -> int:
    """The most that settlement can book for these tokens in micro-yen, whatever part of the prompt turns out to be
    cached or media."""
    dearest = max(card.input_price, card.cached_input_price, card.image_price or 0, card.audio_price or 0)
    return prompt_tokens * dearest + completion_tokens * card.output_price


def check_card(card: RateCard) -> None:
    """Raises `BadTerms` for prices that mean nothing, or contradict each other."""
    terms = card.terms
    if (card.image_price, card.audio_price) != (terms.image, terms.audio):
        raise BadTerms("terms.image", "the card's own prices of media and those of its terms differ")
    for field, price in (
        ("input_price", card.input_price), ("cached_input_price", card.cached_input_price),
        ("output_price", card.output_price), ("terms.image", terms.image), ("terms.audio", terms.audio),
    ):  # fmt: skip
        check_price(field, price)
    ordinary = {
        "input": card.input_price, "cached_input": card.cached_input_price, "image": terms.image, "audio": terms.audio,
        "output": card.output_price,
    }  # fmt: skip
    for kind, model in terms.tiers.items():
        field = f"terms.tiers.{kind}"
        if kind not in ordinary:
            raise BadTerms(field, f"one of {', '.join(ordinary)}")
        check_model(field, model)
        if ordinary[kind] != provisional(model):
            raise BadTerms(
                field, f"settlement books {ordinary[kind]} a token, the model begins at {provisional(model)}"
            )
    if terms.batch is not None:
        check_list("terms.batch", terms.batch)
    if terms.off_peak is not None:
        check_list("terms.off_peak.prices", terms.off_peak.prices)
