"""A tenant with a month of usage to be invoiced."""

from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

from billing.journal import Journal
from billing.rating import RateCard, rate
from billing.types import Outcome, Usage
from tests.billing.rows import a_settlement, an_open_row
from tests.conftest import Stores
from tests.gateway.control.admin import Administration, tenant_body
from tests.gateway.control.world import a_rate_card, an_issuer

PERIOD = "2026-01"
SPAN = {"from": "2026-01-01", "to": "2026-02-01"}
"""The month of the period, in the tenant's zone."""
_START_US = int(datetime(2025, 12, 31, 15, tzinfo=UTC).timestamp()) * 1_000_000
_HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Billed:
    """A tenant, its issuer, and the card by which it is charged."""

    tenant: str
    name: str
    issuer: str
    card: str
    model: str

    @classmethod
    async def made(cls, admin: Administration, stores: Stores, requests: int = 20) -> "Billed":
        """`requests` settled requests in `PERIOD`, the first and the last at its very edges."""
        body = tenant_body(legal_name=f"例 {admin.root.key[-6:]} 株式会社")
        tenant = (await admin.root.good("POST", "/tenants", body))["tenant_id"]
        issuer = (await admin.root.good("POST", "/billing-issuers", an_issuer(hojin_bangou="8700110005901")))[
            "issuer_id"
        ]
        name = f"例計測 {tenant}"
        party = {"issuer_id": issuer, "name": name, "address": "名古屋市中区三の丸3-1-1", "postal_code": "460-0001",
                 "hojin_bangou": "7000012050002"}  # fmt: skip
        await admin.root.good("POST", f"/tenants/{tenant}/billing-party", party)
        prices: dict[str, Any] = {"input_price": 120, "cached_input_price": 60, "output_price": 480}
        card = await admin.root.good("POST", "/rate-cards", a_rate_card(**prices))
        await _use(stores, tenant, card, requests)
        return cls(tenant, name, issuer, card["rate_card_id"], card["model"])


async def _use(stores: Stores, tenant: str, card: dict[str, Any], requests: int) -> None:
    journal, random = Journal(stores.dsn), Random(7)
    prices = RateCard(card["rate_card_id"], card["model"], 0, None, 120, 60, 480)
    for number in range(requests):
        hour = 0 if number == 0 else 31 * 24 if number == 1 else random.randrange(31 * 24)
        at = _START_US + hour * _HOUR_US - (1 if number == 1 else 0)
        row = an_open_row(tenant, model=prices.model, key_id=f"k{number % 2}", rate_card_id=prices.rate_card_id,
                          opened_at=at)  # fmt: skip
        prompt = random.randrange(100_000, 900_000)
        used = Usage(prompt, random.randrange(prompt), random.randrange(1, 400_000))
        outcome = Outcome.COMPLETED if number % 5 else Outcome.CLIENT_GONE
        await journal.opens.put(row)
        await journal.settlements.put(
            a_settlement(row, used, outcome=outcome, lines=rate(used, prices), first_byte_at=at, settled_at=at)
        )
    await journal.close()
