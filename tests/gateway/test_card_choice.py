"""Which card prices a request: of the family that its grant names, the tenant's own before everybody's."""

from dataclasses import replace
from typing import Any

import pytest
from uuid_utils import uuid7

from billing.prices import BadTerms, OffPeak, PriceList, Terms
from billing.prices_store import cards_of, put_card
from billing.rating import RateCard
from gateway.faults import Fault
from gateway.tenancy.snapshot import Snapshot
from tests.billing.books import Books, us
from tests.conftest import read_snapshot

NOON = us("2026-11-10T12:00+09:00")
MIDNIGHT = us("2026-11-10T00:00+09:00")


def a_card(name: str, price: int, **changes: Any) -> RateCard:
    return replace(RateCard(f"{name}-{uuid7()}", "m", us("2026-01-01T00:00+09:00"), None, price, 1, 1), **changes)


@pytest.fixture
async def mine(database: Any) -> str:
    """A tenant."""
    books = await Books(database).open()
    return books.tenant_id


async def kept(database: Any, *cards: RateCard) -> Snapshot:
    """The snapshot of a model of its own that has these cards."""
    model = f"m-{uuid7()}"
    for card in cards:
        await put_card(database, replace(card, model=model))
    snapshot = await read_snapshot(database)
    return replace(snapshot, rate_cards={"m": snapshot.rate_cards[model]})


async def test_family_of_the_grant_and_the_tenants_own_card_first(database: Any, mine: str) -> None:
    snapshot = await kept(
        database,
        a_card("published", 1), a_card("investor", 2, family="investor"),
        a_card("own", 3, family="investor", tenant_id=mine),
    )  # fmt: skip

    def price(tenant_id: str, family: str) -> int:
        return snapshot.rate_card("m", NOON, "chat", tenant_id, family).input_price

    assert [price(mine, family) for family in ("", "published", "investor")] == [1, 1, 3]
    assert [price("another", family) for family in ("", "published", "investor")] == [1, 1, 2]
    with pytest.raises(Fault, match="model_not_found"):
        price(mine, "unknown")


async def test_of_several_cards_in_force_the_one_that_began_last_counts(database: Any) -> None:
    snapshot = await kept(
        database,
        a_card("old", 1), a_card("new", 2, effective_from=NOON),
        a_card("short", 3, effective_from=NOON + 10, effective_to=NOON + 20),
    )  # fmt: skip
    prices = [
        snapshot.rate_card("m", at, "chat", "t", "").input_price
        for at in (NOON - 1, NOON, NOON + 10, NOON + 19, NOON + 20)
    ]
    assert prices == [1, 2, 3, 3, 2]


async def test_quiet_hours_and_batches_are_priced_when_the_card_is_chosen(database: Any) -> None:
    night = OffPeak("Asia/Tokyo", "22:00", "06:00", PriceList(60, 30, 240))
    snapshot = await kept(database, a_card("c", 120, terms=Terms(off_peak=night, batch=PriceList(50, 25, 200))))
    chosen = [
        snapshot.rate_card("m", at, action, "t", "").input_price
        for at, action in ((NOON, "chat"), (MIDNIGHT, "chat"), (MIDNIGHT, "batch"))
    ]
    assert chosen == [120, 60, 50]


async def test_card_is_kept_as_it_was_given(database: Any, mine: str) -> None:
    card = a_card("own", 120, family="investor", tenant_id=mine, terms=Terms(image=5, tax="reduced"), image_price=5)
    await put_card(database, card)
    assert await cards_of(database, ids=[card.rate_card_id]) == [card]
    assert card in await cards_of(database, model="m", tenant_id=mine)
    assert card not in await cards_of(database, model="m", tenant_id="another")
    with pytest.raises(BadTerms, match="effective_to"):
        await put_card(database, replace(card, effective_to=card.effective_from - 1))


async def test_card_whose_terms_mean_nothing_prices_nobody(database: Any) -> None:
    card = a_card("c", 120, model=f"m-{uuid7()}")
    await put_card(database, card)
    await database.execute(
        "INSERT INTO rate_card (rate_card_id, model, effective_from, input_price, cached_input_price, output_price,"
        " terms) SELECT 'bad-' || rate_card_id, model, now(), 1, 1, 1, '{\"discount\": 10}' FROM rate_card"
        " WHERE rate_card_id = $1",
        card.rate_card_id,
    )
    assert (await read_snapshot(database)).rate_cards[card.model] == (card,)
