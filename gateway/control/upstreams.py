"""`/upstreams`, the engines and where they stand."""

from typing import Annotated, Any

from fastapi import Query

from gateway.control.access import UpstreamReader, UpstreamWriter
from gateway.control.answers import Listed, Upstream
from gateway.control.audit import Action
from gateway.control.forms import NewUpstream, UpstreamChange
from gateway.control.paging import Paging
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import UPSTREAM
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


async def retire(work: Work, upstream_id: str) -> Row:
    """The row, retired now if it was not yet."""
    row = await work.get(UPSTREAM, upstream_id)
    if row["retired_at"] is not None:
        return row
    return await work.update(UPSTREAM, row, {"retired_at": work.now}, Action.RETIRE)
