"""Reads what a month costs by: the journal's quantities, agreements, carried fractions, credits, tax rates."""

from collections import defaultdict
from datetime import date
from typing import Any

from billing.invoices.assemble import Basis, Quantity
from billing.invoices.period import Period
from billing.invoices.refused import InvoiceRefused
from billing.off_peak import priced_at
from billing.prices import QUARTER_HOUR_US, TaxCategory
from billing.prices_store import agreements_of, cards_of, credits_of
from billing.rating import Parts, RateCard, by_kind

# The parts are `billing.rating.split`, row by row. Requests of cards with quiet hours are kept apart by the quarter of
# an hour in which they were opened.
_QUANTITIES = """
SELECT j.rate_card_id, j.action, CASE WHEN r.terms ? 'off_peak'
    THEN floor(extract(epoch FROM j.opened_at) / 900)::bigint ELSE 0 END AS quarter,
  sum(m.fresh - m.image - m.audio)::bigint AS input, sum(j.cached_tokens)::bigint AS cached_input,
  sum(m.image)::bigint AS image, sum(m.audio)::bigint AS audio, sum(j.completion_tokens)::bigint AS output
FROM journal j LEFT JOIN rate_card r ON r.rate_card_id = j.rate_card_id
CROSS JOIN LATERAL (SELECT j.prompt_tokens - j.cached_tokens AS fresh,
  least(j.image_tokens, j.prompt_tokens - j.cached_tokens) AS image) f
CROSS JOIN LATERAL (SELECT f.fresh, f.image, least(j.audio_tokens, f.fresh - f.image) AS audio) m
WHERE j.tenant_id = $1 AND j.booked_at >= from_micros($2) AND j.booked_at < from_micros($3)
  AND (j.prompt_tokens > 0 OR j.completion_tokens > 0)
GROUP BY 1, 2, 3
"""

# A request's entries are booked when it is. That is said of both sides, so that of a ledger of years the month is read.
_PROVISIONAL = """
SELECT j.rate_card_id, l.kind, sum(l.debit)::bigint AS micro_yen
FROM journal j JOIN ledger_entry l ON l.request_id = j.request_id
WHERE j.tenant_id = $1 AND j.booked_at >= from_micros($2) AND j.booked_at < from_micros($3)
  AND l.tenant_id = $1 AND l.booked_at >= from_micros($2) AND l.booked_at < from_micros($3)
  AND l.source = 'request' AND l.account = 'receivable:' || $1
GROUP BY 1, 2
"""

_CARRIED = """
SELECT DISTINCT ON (line_key) line_key, micro_yen FROM carried_fraction
WHERE tenant_id = $1 AND period_end < from_micros($2) ORDER BY line_key, period_end DESC
"""

_RATES = """
SELECT DISTINCT ON (category) category, permille FROM tax_rate WHERE effective_from <= $1
ORDER BY category, effective_from DESC
"""


async def read_basis(connection: Any, tenant_id: str, period: Period, timeout_s: float | None = None) -> Basis:
    """What the month costs by, as it is now; of a closed month as it was when it was closed. `timeout_s` is how long
    reading the journal may take, the connection's own limit by default."""
    carried = await connection.fetch(_CARRIED, tenant_id, period.end)
    return Basis(
        period,
        await quantities(connection, tenant_id, period, timeout_s),
        await agreements_of(connection, tenant_id),
        {row["line_key"]: row["micro_yen"] for row in carried},
        await credits_of(connection, tenant_id, period.end),
        await tax_rates(connection, period.last_day),
    )


async def quantities(
    connection: Any, tenant_id: str, period: Period, timeout_s: float | None = None
) -> list[Quantity]:  # fmt: skip
    """Tokens by card, variant and kind, from the journal. Raises `InvoiceRefused` for a row whose card is gone."""
    rows = await connection.fetch(_QUANTITIES, tenant_id, period.start, period.end, timeout=timeout_s)
    cards = {card.rate_card_id: card for card in await cards_of(connection, ids={row["rate_card_id"] for row in rows})}
    lists: dict[tuple[str, str], RateCard] = {}
    totals: dict[tuple[str, str, str], int] = defaultdict(int)
    for row in rows:
        card = cards.get(row["rate_card_id"])
        if card is None:
            raise InvoiceRefused("books_differ", "", f"rate card {row['rate_card_id']!r} of the journal is gone")
        priced = priced_at(card, row["quarter"] * QUARTER_HOUR_US, row["action"])
        lists[card.rate_card_id, priced.variant] = priced
        parts = Parts(row["input"], row["cached_input"], row["image"], row["audio"], row["output"])
        for kind, tokens in by_kind(parts, priced):
            totals[card.rate_card_id, priced.variant, kind] += tokens
    return [
        Quantity(lists[card_id, variant], kind, tokens) for (card_id, variant, kind), tokens in totals.items() if tokens
    ]


async def provisional(
    connection: Any, tenant_id: str, period: Period, timeout_s: float | None = None
) -> dict[tuple[str, str], int]:  # fmt: skip
    """Micro-yen that settlement has booked, by (rate card, booked kind)."""
    rows = await connection.fetch(_PROVISIONAL, tenant_id, period.start, period.end, timeout=timeout_s)
    return {(row["rate_card_id"], row["kind"]): row["micro_yen"] for row in rows}


async def tax_rates(connection: Any, on: date) -> dict[TaxCategory, int]:
    """Permille by category, as in force on a day of supply."""
    return {row["category"]: row["permille"] for row in await connection.fetch(_RATES, on)}
