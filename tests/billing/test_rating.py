"""Rating is exact integer arithmetic."""

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.rating import RateCard, rate, upper_bound
from billing.types import Usage
from tests.billing.rows import CARD

PRICES = st.integers(0, 10**6)
TOKENS = st.integers(0, 10**9)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt, completion = draw(TOKENS), draw(TOKENS)
    return Usage(prompt, draw(st.integers(0, prompt)), completion, draw(st.integers(0, completion)))


CARDS = st.builds(
    RateCard, st.just("c"), st.just("m"), st.just(0), st.none(),
    input_price=PRICES, cached_input_price=PRICES, output_price=PRICES,
)  # fmt: skip


def test_cached_tokens_are_priced_once_at_their_own_price() -> None:
    lines = {line.kind: line for line in rate(Usage(prompt=30, cached=10, completion=7, reasoning=2), CARD)}
    assert {kind: (line.quantity, line.amount) for kind, line in lines.items()} == {
        "input": (20, 2_400), "cached_input": (10, 600), "output": (7, 3_360),
    }  # fmt: skip


def test_nothing_used_has_no_lines() -> None:
    assert rate(Usage(), CARD) == ()


@settings(max_examples=2_000)
@given(usages(), CARDS)
def test_charge_never_exceeds_the_bound_of_the_same_tokens(usage: Usage, card: RateCard) -> None:
    lines = rate(usage, card)
    assert all(line.quantity > 0 for line in lines)
    assert sum(line.quantity for line in lines) == usage.total
    assert sum(line.amount for line in lines) <= upper_bound(usage.prompt, usage.completion, card)


def test_card_covers_its_first_moment_and_not_its_last() -> None:
    card = RateCard("c", "m", 10, 20, 1, 1, 1)
    assert [card.covers(at) for at in (9, 10, 19, 20)] == [False, True, True, False]
