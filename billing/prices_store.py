"""Rate cards, agreements and credit paid ahead, as the book keeps them. `connection` has asyncpg's methods.

None of them ever changes: a card or an agreement may get an end, and what begins before a tenant's watermark is refused
by the database (`asyncpg.RestrictViolationError`).
"""

from collections.abc import Collection
from typing import Any

import uuid_utils

from billing.agreements import Agreement, Credit, check_agreement, dump_agreement, parse_agreement
from billing.off_peak import check_off_peak
from billing.prices import BadTerms, dump_terms, parse_terms
from billing.rating import RateCard, check_card

CARD_COLUMNS = (
    "rate_card_id, model, (extract(epoch FROM effective_from) * 1000000)::bigint AS effective_from,"
    " (extract(epoch FROM effective_to) * 1000000)::bigint AS effective_to, input_price, cached_input_price,"
    " output_price, family, tenant_id, terms::text AS terms"
)
"""What `card_of` reads, of the table `rate_card`."""

_PUT_CARD = """
INSERT INTO rate_card (rate_card_id, model, effective_from, effective_to, input_price, cached_input_price,
  output_price, family, tenant_id, terms)
VALUES ($1, $2, from_micros($3), from_micros($4), $5, $6, $7, $8, $9, $10::jsonb)
"""

_CARDS = f"""
SELECT {CARD_COLUMNS} FROM rate_card
WHERE ($1::text[] IS NULL OR rate_card_id = ANY($1)) AND ($2::text IS NULL OR model = $2)
  AND ($3::text IS NULL OR tenant_id IS NULL OR tenant_id = $3)
ORDER BY model, effective_from, rate_card_id
"""  # noqa: S608 # names of our own

_PUT_AGREEMENT = """
INSERT INTO billing_agreement (agreement_id, tenant_id, effective_from, effective_to, terms)
VALUES ($1, $2, from_micros($3), from_micros($4), $5::jsonb)
"""

_AGREEMENTS = """
SELECT agreement_id, tenant_id, (extract(epoch FROM effective_from) * 1000000)::bigint AS effective_from,
  (extract(epoch FROM effective_to) * 1000000)::bigint AS effective_to, terms::text AS terms
FROM billing_agreement WHERE tenant_id = $1 ORDER BY effective_from, agreement_id
"""

# Both sides of the money that came in: what the tenant has paid ahead is owed to it until it is used.
_PUT_CREDIT = """
WITH granted AS (
  INSERT INTO prepaid_credit (credit_id, tenant_id, yen, effective_from, expires_at, note)
  VALUES ($1, $2, $3::bigint, from_micros($4), from_micros($5), $6)
  RETURNING tenant_id, effective_from
)
INSERT INTO ledger_entry (request_id, line, account, tenant_id, kind, quantity, unit_price, debit, credit, booked_at,
  source)
SELECT $7::text::uuid, 1, side.account, g.tenant_id, 'prepaid_granted', 1, $3::bigint * 1000000, side.debit,
  side.credit, g.effective_from, 'prepaid'
FROM granted g CROSS JOIN LATERAL (VALUES ('cash', $3::bigint * 1000000, 0::bigint),
  ('prepaid:' || g.tenant_id, 0::bigint, $3::bigint * 1000000)) AS side(account, debit, credit)
"""

_CREDITS = """
SELECT c.credit_id, c.tenant_id, c.yen, (extract(epoch FROM c.effective_from) * 1000000)::bigint AS granted_at,
  (extract(epoch FROM c.expires_at) * 1000000)::bigint AS expires_at,
  (c.yen - coalesce(sum(u.used_yen + u.expired_yen), 0))::bigint AS left_yen
FROM prepaid_credit c
LEFT JOIN prepaid_use u ON u.credit_id = c.credit_id AND ($2::bigint IS NULL OR u.period_end < from_micros($2))
WHERE c.tenant_id = $1 GROUP BY c.credit_id ORDER BY c.expires_at, c.credit_id
"""


def card_of(row: Any) -> RateCard:
    """The card of a row with `CARD_COLUMNS`. Raises `BadTerms` for terms that mean nothing."""
    terms = parse_terms(row["terms"])
    card = RateCard(
        row["rate_card_id"], row["model"], row["effective_from"], row["effective_to"], row["input_price"],
        row["cached_input_price"], row["output_price"], row["family"], row["tenant_id"], terms, terms.image,
        terms.audio,
    )  # fmt: skip
    check(card)
    return card


def check(card: RateCard) -> None:
    """Raises `BadTerms` for a card that cannot be kept."""
    check_card(card)
    if card.terms.off_peak is not None:
        check_off_peak(card.terms.off_peak)
    if card.effective_to is not None and card.effective_to < card.effective_from:
        raise BadTerms("effective_to", "effective_from (then it is never in force) or later")
    if card.variant:
        raise BadTerms("variant", "a card is kept with its ordinary prices")


async def put_card(connection: Any, card: RateCard) -> None:
    """Keep a new card. Raises `BadTerms`, or `asyncpg.UniqueViolationError` for an id that is taken."""
    check(card)
    await connection.execute(
        _PUT_CARD, card.rate_card_id, card.model, card.effective_from, card.effective_to, card.input_price,
        card.cached_input_price, card.output_price, card.family, card.tenant_id, dump_terms(card.terms),
    )  # fmt: skip


async def cards_of(
    connection: Any, *, ids: Collection[str] | None = None, model: str | None = None, tenant_id: str | None = None
) -> list[RateCard]:
    """Cards by id, by model; with `tenant_id` those that may apply to this tenant (its own, and everybody's)."""
    wanted = None if ids is None else sorted(ids)
    return [card_of(row) for row in await connection.fetch(_CARDS, wanted, model, tenant_id)]


async def put_agreement(connection: Any, agreement: Agreement) -> None:
    """Keep a new agreement. Raises `BadTerms`, or `asyncpg.RestrictViolationError` when it begins before the tenant's
    watermark."""
    check_agreement(agreement)
    await connection.execute(
        _PUT_AGREEMENT, agreement.agreement_id, agreement.tenant_id, agreement.effective_from, agreement.effective_to,
        dump_agreement(agreement.terms),
    )  # fmt: skip


async def end_agreement(connection: Any, tenant_id: str, agreement_id: str, at: int) -> bool:
    """Let an agreement end at `at` (microseconds); False when the tenant has none of this id. Raises
    `asyncpg.RestrictViolationError` for an end before the watermark."""
    found = await connection.fetchval(
        "UPDATE billing_agreement SET effective_to = from_micros($3) WHERE tenant_id = $1 AND agreement_id = $2"
        " RETURNING true",
        tenant_id, agreement_id, at,
    )  # fmt: skip
    return bool(found)


async def agreements_of(connection: Any, tenant_id: str) -> list[Agreement]:
    """All agreements of a tenant, past and future ones too."""
    return [
        Agreement(
            row["agreement_id"], row["tenant_id"], row["effective_from"], row["effective_to"],
            parse_agreement(row["terms"]),
        )
        for row in await connection.fetch(_AGREEMENTS, tenant_id)
    ]  # fmt: skip


async def put_credit(connection: Any, credit: Credit, note: str = "") -> None:
    """Keep money paid ahead, and book it. Raises `BadTerms`, or `asyncpg.RestrictViolationError` when it was granted
    before the watermark."""
    if not 0 < credit.yen <= 10**12:
        raise BadTerms("yen", "1 to 10^12")
    if credit.expires_at <= credit.granted_at:
        raise BadTerms("expires_at", "later than granted_at")
    await connection.execute(
        _PUT_CREDIT, credit.credit_id, credit.tenant_id, credit.yen, credit.granted_at, credit.expires_at, note,
        str(uuid_utils.uuid7()),
    )  # fmt: skip


async def credits_of(connection: Any, tenant_id: str, before: int | None = None) -> list[Credit]:
    """A tenant's credits by expiry, with what is left of them now, or was before the closing of the period that ends at
    `before` (microseconds)."""
    return [Credit(**dict(row)) for row in await connection.fetch(_CREDITS, tenant_id, before)]
