"""Rating is exact integer arithmetic: every token of a request is in one line, once, at its own price."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.prices import BadTerms, Graduated, Package, PriceList, PriceModel, Step, Terms
from billing.rating import RateCard, check_card, rate, split, upper_bound
from billing.types import Usage
from tests.billing.rows import CARD

PRICES = st.integers(0, 10**6)
MEDIA_PRICES = st.none() | PRICES
TOKENS = st.integers(0, 10**9)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt, completion = draw(TOKENS), draw(TOKENS)
    image = draw(st.integers(0, prompt))
    audio = draw(st.integers(0, prompt - image))
    return Usage(
        prompt, draw(st.integers(0, prompt)), completion, draw(st.integers(0, completion)), image=image, audio=audio
    )


CARDS = st.builds(
    RateCard, st.just("c"), st.just("m"), st.just(0), st.none(),
    input_price=PRICES, cached_input_price=PRICES, output_price=PRICES, image_price=MEDIA_PRICES,
    audio_price=MEDIA_PRICES,
)  # fmt: skip
MEDIA = RateCard("c", "m", 0, None, 120, 60, 480, image_price=200, audio_price=300)


def quantities(usage: Usage, card: RateCard) -> dict[str, int]:
    return {line.kind: line.quantity for line in rate(usage, card)}


def test_cached_tokens_are_priced_once_at_their_own_price() -> None:
    lines = {line.kind: line for line in rate(Usage(prompt=30, cached=10, completion=7, reasoning=2), CARD)}
    assert {kind: (line.quantity, line.amount) for kind, line in lines.items()} == {
        "input": (20, 2_400), "cached_input": (10, 600), "output": (7, 3_360),
    }  # fmt: skip


def test_cached_come_first_then_images_then_audio_and_the_rest_is_text() -> None:
    usage = Usage(prompt=100, cached=10, completion=5, image=64, audio=20)
    assert quantities(usage, MEDIA) == {"input": 6, "cached_input": 10, "image": 64, "audio": 20, "output": 5}
    crowded = Usage(prompt=100, cached=30, completion=5, image=64, audio=20)
    assert quantities(crowded, MEDIA) == {"cached_input": 30, "image": 64, "audio": 6, "output": 5}


def test_media_without_a_price_are_input() -> None:
    usage = Usage(prompt=100, cached=10, completion=5, image=64, audio=20)
    assert quantities(usage, CARD) == {"input": 90, "cached_input": 10, "output": 5}


def test_nothing_used_has_no_lines() -> None:
    assert rate(Usage(), CARD) == ()


@settings(max_examples=2_000)
@given(usages(), CARDS)
def test_every_token_is_charged_once_and_within_the_bound(usage: Usage, card: RateCard) -> None:
    lines = rate(usage, card)
    assert all(line.quantity > 0 for line in lines)
    assert len({line.kind for line in lines}) == len(lines)
    assert sum(line.quantity for line in lines) == usage.total
    assert sum(line.amount for line in lines) == sum(line.quantity * card.price(line.kind) for line in lines)
    assert sum(line.amount for line in lines) <= upper_bound(usage.prompt, usage.completion, card)
    parts = split(usage)
    assert parts.cached_input == usage.cached and parts.output == usage.completion
    assert 0 <= parts.image <= usage.image and 0 <= parts.audio <= usage.audio and parts.input >= 0
    longer = rate(replace(usage, completion=usage.completion + 1), card)
    assert sum(line.amount for line in longer) - sum(line.amount for line in lines) == card.output_price


def test_card_covers_its_first_moment_and_not_its_last() -> None:
    card = RateCard("c", "m", 10, 20, 1, 1, 1)
    assert [card.covers(at) for at in (9, 10, 19, 20)] == [False, True, True, False]


GOOD_STEPS = (Step(10, 120), Step(None, 100))


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        (Terms(tiers={"input": Graduated((Step(10, 100), Step(None, 90)))}), "terms.tiers.input"),
        (Terms(tiers={"input": Graduated(())}), "terms.tiers.input.steps"),
        (Terms(tiers={"input": Graduated((Step(10, 120),))}), "terms.tiers.input.steps[0].up_to"),
        (Terms(tiers={"input": Graduated((Step(None, 120), Step(None, 1)))}), "terms.tiers.input.steps[0].up_to"),
        (
            Terms(tiers={"input": Graduated((Step(10, 120), Step(10, 9), Step(None, 1)))}),
            "terms.tiers.input.steps[1].up_to",
        ),
        (Terms(tiers={"input": Graduated((Step(0, 120), Step(None, 1)))}), "terms.tiers.input.steps[0].up_to"),
        (Terms(tiers={"input": Graduated((Step(10, 120), Step(None, -1)))}), "terms.tiers.input.steps[1].price"),
        (Terms(tiers={"input": Package(0, 5)}), "terms.tiers.input.tokens"),
        (Terms(tiers={"words": Graduated(GOOD_STEPS)}), "terms.tiers.words"),
        (Terms(tiers={"image": Graduated(GOOD_STEPS)}), "terms.tiers.image"),
        (Terms(batch=PriceList(-1, 0, 0)), "terms.batch.input"),
        (Terms(batch=PriceList(1, 0, 10**9 + 1)), "terms.batch.output"),
    ],
)
def test_prices_that_mean_nothing_are_refused_by_name(terms: Terms, field: str) -> None:
    with pytest.raises(BadTerms) as refused:
        check_card(RateCard("c", "m", 0, None, 120, 60, 480, terms=terms))
    assert refused.value.field == field


def test_card_whose_columns_are_its_models_beginning_is_kept() -> None:
    tiers: dict[str, PriceModel] = {
        "input": Graduated(GOOD_STEPS),
        "output": Package(3, 5),
        "image": Graduated(GOOD_STEPS),
    }
    terms = Terms(image=120, tiers=tiers)
    check_card(RateCard("c", "m", 0, None, 120, 60, 1_666_667, terms=terms, image_price=120))
