"""Price models of a month against a naive count, one token at a time."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.month import charges
from billing.prices import Graduated, Package, PriceModel, Step, Terms, Volume, provisional
from billing.rating import RateCard


def card(model: PriceModel | None) -> RateCard:
    terms = Terms() if model is None else Terms(tiers={"output": model})
    return RateCard("c", "m", 0, None, 120, 60, 480 if model is None else provisional(model), terms=terms)


def cost(model: PriceModel | None, quantity: int) -> int:
    return sum(charge.micro_yen for charge in charges(card(model), "output", quantity))


def naive(model: PriceModel, quantity: int) -> int:
    """Micro-yen, by looking at every token."""
    if isinstance(model, Package):
        blocks = 0
        while blocks * model.tokens < quantity:
            blocks += 1
        return blocks * model.yen * 1_000_000

    def price(token: int) -> int:
        return next(step.price for step in model.steps if step.up_to is None or token <= step.up_to)

    if isinstance(model, Volume):
        return quantity * price(quantity) if quantity else 0
    return sum(price(token) for token in range(1, quantity + 1))


@st.composite
def steps(draw: st.DrawFn) -> tuple[Step, ...]:
    bounds = sorted(draw(st.sets(st.integers(1, 60), max_size=4)))
    prices = st.integers(0, 1_000)
    return (*(Step(bound, draw(prices)) for bound in bounds), Step(None, draw(prices)))


MODELS: st.SearchStrategy[PriceModel] = st.one_of(
    st.builds(Graduated, steps()),
    st.builds(Volume, steps()),
    st.builds(Package, st.integers(1, 40), st.integers(0, 999)),
)


@settings(max_examples=2_000)
@given(MODELS, st.integers(0, 100), st.integers(0, 20))
def test_every_model_costs_what_the_naive_count_says(model: PriceModel, quantity: int, more: int) -> None:
    lines = charges(card(model), "output", quantity)
    assert sum(line.micro_yen for line in lines) == naive(model, quantity)
    assert len({line.tier for line in lines}) == len(lines)
    if not isinstance(model, Package):
        assert sum(line.quantity for line in lines) == quantity
    if not isinstance(model, Volume):  # a step of a volume price may lower what lies below it
        assert cost(model, quantity) <= cost(model, quantity + more)
    # A single price is the only model that does not care how a month is cut.
    assert cost(None, quantity + more) == cost(None, quantity) + cost(None, more)


def test_random_months_agree_with_the_naive_count() -> None:
    rng = random.Random(4)
    for _ in range(100_000):
        bounds = sorted(rng.sample(range(1, 12), rng.randrange(3)))
        prices = [rng.randrange(50) for _ in range(len(bounds) + 1)]
        made = tuple(Step(bound, price) for bound, price in zip([*bounds, None], prices, strict=True))
        model: PriceModel = (Graduated(made), Volume(made), Package(rng.randrange(1, 9), rng.randrange(9)))[
            rng.randrange(3)
        ]
        quantity = rng.randrange(16)
        assert cost(model, quantity) == naive(model, quantity), (model, quantity)


def test_volume_prices_the_whole_month_at_the_step_of_its_last_token() -> None:
    model = Volume((Step(1_000_000, 480), Step(10_000_000, 400), Step(None, 300)))
    assert [cost(model, quantity) for quantity in (1_000_000, 1_000_001, 10_000_001)] == [
        480_000_000, 400_000_400, 3_000_000_300,
    ]  # fmt: skip


def test_graduated_prices_each_token_by_its_own_step_and_says_which() -> None:
    lines = charges(card(Graduated((Step(1_000_000, 480), Step(None, 300)))), "output", 1_500_000)
    assert [(line.tier, line.quantity, line.unit_price) for line in lines] == [
        ("1-1000000", 1_000_000, 480), ("1000001-", 500_000, 300),
    ]  # fmt: skip


def test_begun_package_is_paid_whole() -> None:
    for tokens, blocks in ((1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2)):
        (line,) = charges(card(Package(1_000_000, 400)), "output", tokens)
        assert (line.kind, line.quantity, line.micro_yen) == ("package", blocks, blocks * 400_000_000)
