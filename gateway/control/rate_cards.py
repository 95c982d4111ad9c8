"""`/rate-cards`: what models cost, from when on, for whom. Dated rows: none is ever changed in the past."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Query

from billing.prices import BadTerms, parse_terms
from billing.prices_store import check
from billing.rating import RateCard as Card
from gateway.control.access import RateCardReader, RateCardWriter
from gateway.control.answers import Listed
from gateway.control.billing_answers import RateCard
from gateway.control.billing_forms import Ending, NewRateCard
from gateway.control.billing_refusals import fault_of
from gateway.control.paging import Paging
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import RATE_CARD, TENANT, Page
from gateway.control.work import Work
from gateway.faults import Fault
from gateway.licensing.times import to_us

routes = router("rate cards")

# Between a clerk's clock and ours, and while a request is on its way.
NOW_S = 60
_CARDS_MAX = 10_000


@routes.get("/rate-cards", response_model=Listed[RateCard])
async def list_rate_cards(work: RateCardReader, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """All that are within reach, past and future ones too."""
    return paging.answer(RATE_CARD, await work.page(RATE_CARD, paging.page(RATE_CARD)))


@routes.post("/rate-cards", status_code=201, response_model=RateCard)
async def create_rate_card(work: RateCardWriter, body: NewRateCard) -> Row:
    """New prices. They begin now or later, unless the model had none."""
    same = await work.page(RATE_CARD, Page({"model": body.model}, limit=_CARDS_MAX))
    await check_new_card(work, body, same)
    return await work.create(RATE_CARD, body.model_dump())


@routes.get("/rate-cards/{rate_card_id}", response_model=RateCard)
async def show_rate_card(work: RateCardReader, rate_card_id: str) -> Row:
    """One card."""
    return await work.get(RATE_CARD, rate_card_id)


@routes.patch("/rate-cards/{rate_card_id}", response_model=RateCard)
async def update_rate_card(work: RateCardWriter, rate_card_id: str, body: Ending) -> Row:
    """Set or lift the end of a card that has not ended; `effective_from` withdraws one that has not begun."""
    row = await work.get(RATE_CARD, rate_card_id)
    check_end(work, row, body.effective_to)
    return await work.amend(RATE_CARD, row, NewRateCard, body.model_dump())


async def check_new_card(work: Work, card: NewRateCard, others: Iterable[Row]) -> None:
    """Raises `Fault` for prices that mean nothing, that begin together with others, or while others were in force."""
    if card.tenant_id is not None and not await _known(work, card.tenant_id):
        raise Fault("object_not_found", param="tenant_id", kind=TENANT.kind, name=card.tenant_id)
    try:
        check(_card(card))
    except BadTerms as bad:
        raise fault_of(bad) from None
    others = list(others)
    for row in others:
        if _same_start(work, card, row):
            raise Fault("already_exists", param="effective_from", kind=RATE_CARD.kind, name=row["rate_card_id"])
    if card.effective_from >= work.now - timedelta(seconds=NOW_S):
        return
    for row in others:
        if _replaced(card, row) and _in_force(work, row, card.effective_from):
            detail = f"now or later: {row['rate_card_id']} has been in force since then"
            raise Fault("invalid_value", param="effective_from", detail=detail)


def check_end(work: Work, row: Row, end: datetime | None) -> None:
    """Raises `Fault` where the dated `row` would get an end in the past, or has ended and would get another."""
    ended = None if row["effective_to"] is None else work.time_of(row["effective_to"])
    if end == ended:
        return
    if ended is not None and ended <= work.now:
        raise Fault("invalid_value", param="effective_to", detail=f"it ended at {row['effective_to']} and stays so")
    if end is not None and end == work.time_of(row["effective_from"]) <= work.now:
        raise Fault("invalid_value", param="effective_to", detail="it has begun: later than effective_from")
    if end is not None and end < work.now - timedelta(seconds=NOW_S):
        raise Fault("invalid_value", param="effective_to", detail="now or later")


async def _known(work: Work, tenant_id: str) -> bool:
    return bool(await work.page(TENANT, Page({"tenant_id": tenant_id}, limit=1)))


def _card(form: NewRateCard) -> Card:
    terms = parse_terms(json.dumps(form.terms))
    return Card(
        form.rate_card_id, form.model, to_us(form.effective_from),
        None if form.effective_to is None else to_us(form.effective_to), form.input_price, form.cached_input_price,
        form.output_price, form.family, form.tenant_id, terms, terms.image, terms.audio,
    )  # fmt: skip


def _replaced(card: NewRateCard, row: Row) -> bool:
    """Whether `card` would be taken where that of `row` was."""
    same = (row["model"], row["family"]) == (card.model, card.family) and row["rate_card_id"] != card.rate_card_id
    return same and row["tenant_id"] in (None, card.tenant_id)


def _same_start(work: Work, card: NewRateCard, row: Row) -> bool:
    """Whether nothing would tell which of both is the price. One of them that is never in force does no harm."""
    same = (row["model"], row["family"], row["tenant_id"]) == (card.model, card.family, card.tenant_id)
    same = same and row["rate_card_id"] != card.rate_card_id and card.effective_from != card.effective_to
    return same and not _withdrawn(row) and work.time_of(row["effective_from"]) == card.effective_from


def _withdrawn(row: Row) -> bool:
    return bool(row["effective_to"] == row["effective_from"])


def _in_force(work: Work, row: Row, since: datetime) -> bool:
    end = row["effective_to"]
    began = not _withdrawn(row) and work.time_of(row["effective_from"]) < work.now
    return began and (end is None or work.time_of(end) > since)
