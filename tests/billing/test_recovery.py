"""What recovery reads of a row that its process left: its price list is the one of its opening."""

from typing import Any
from uuid import uuid4

from billing.journal import Journal
from billing.prices import OffPeak, PriceList, Terms
from billing.prices_store import put_card
from billing.rating import RateCard
from billing.recovery import unfinished
from tests.billing.books import us
from tests.billing.rows import an_open_row
from tests.conftest import Stores, a_tenant


async def test_row_opened_in_quiet_hours_is_recovered_at_their_prices(stores: Stores, database: Any) -> None:
    night = OffPeak("Asia/Tokyo", "22:00", "06:00", PriceList(60, 30, 240))
    name, instance = f"c-{uuid4().hex[:8]}", f"gateway-{uuid4().hex[:8]}"
    terms = Terms(image=200, off_peak=night)
    await put_card(database, RateCard(name, "m", 0, None, 120, 60, 480, terms=terms, image_price=200))
    journal = Journal(stores.dsn)
    for clock in ("12:00", "23:00"):
        opened_at = us(f"2026-11-24T{clock}+09:00")
        await journal.opens.put(
            an_open_row(a_tenant().tenant_id, rate_card_id=name, instance_id=instance, opened_at=opened_at)
        )
    await journal.close()
    cards = [row.card for row in await unfinished(database, instance, 10)]
    assert [(card.output_price, card.image_price, card.variant) for card in cards if card is not None] == [
        (480, 200, ""), (240, None, "off_peak"),
    ]  # fmt: skip
