"""`/upstreams`, the engines and where they stand; `/rate-cards`, what their models cost."""

from typing import Annotated, Any

from fastapi import Query

from gateway.control.access import RateCardReader, RateCardWriter, UpstreamReader, UpstreamWriter
from gateway.control.answers import Listed, RateCard, Upstream
from gateway.control.audit import Action
from gateway.control.forms import NewRateCard, NewUpstream, RateCardChange, UpstreamChange
from gateway.control.paging import Paging
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import RATE_CARD, UPSTREAM
from gateway.control.work import Work

routes = router("upstreams")


@routes.get("/upstreams", response_model=Listed[Upstream])
async def list_upstreams(work: UpstreamReader, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """All of them, retired ones too."""
    return paging.answer(UPSTREAM, await work.page(UPSTREAM, paging.page(UPSTREAM)))


@routes.post("/upstreams", status_code=201, response_model=Upstream)
async def create_upstream(work: UpstreamWriter, body: NewUpstream) -> Row:
    """A new engine endpoint; requests go to it within a second."""
    return await work.create(UPSTREAM, body.model_dump())


@routes.get("/upstreams/{upstream_id}", response_model=Upstream)
async def show_upstream(work: UpstreamReader, upstream_id: str) -> Row:
    """One endpoint."""
    return await work.get(UPSTREAM, upstream_id)


@routes.patch("/upstreams/{upstream_id}", response_model=Upstream)
async def update_upstream(work: UpstreamWriter, upstream_id: str, body: UpstreamChange) -> Row:
    """Change what the body names."""
    return await work.amend(UPSTREAM, await work.get(UPSTREAM, upstream_id), NewUpstream, body.given())


@routes.post("/upstreams/{upstream_id}/retire", response_model=Upstream)
async def retire_upstream(work: UpstreamWriter, upstream_id: str) -> Row:
    """No further request goes to it; what runs there ends as it would have."""
    return await retire(work, upstream_id)


@routes.get("/rate-cards", response_model=Listed[RateCard])
async def list_rate_cards(work: RateCardReader, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """All of them, past and future ones too."""
    return paging.answer(RATE_CARD, await work.page(RATE_CARD, paging.page(RATE_CARD)))


@routes.post("/rate-cards", status_code=201, response_model=RateCard)
async def create_rate_card(work: RateCardWriter, body: NewRateCard) -> Row:
    """New prices. Of several cards in force the one that began last counts."""
    return await work.create(RATE_CARD, body.model_dump())


@routes.get("/rate-cards/{rate_card_id}", response_model=RateCard)
async def show_rate_card(work: RateCardReader, rate_card_id: str) -> Row:
    """One card."""
    return await work.get(RATE_CARD, rate_card_id)


@routes.patch("/rate-cards/{rate_card_id}", response_model=RateCard)
async def update_rate_card(work: RateCardWriter, rate_card_id: str, body: RateCardChange) -> Row:
    """Set or lift the end of a card."""
    return await work.amend(RATE_CARD, await work.get(RATE_CARD, rate_card_id), NewRateCard, body.given())


async def retire(work: Work, upstream_id: str) -> Row:
    """The row, retired now if it was not yet."""
    row = await work.get(UPSTREAM, upstream_id)
    if row["retired_at"] is not None:
        return row
    return await work.update(UPSTREAM, row, {"retired_at": work.now}, Action.RETIRE)
