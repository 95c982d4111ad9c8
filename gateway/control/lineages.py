"""`/contributions` and `/models`: what has been contributed, and which model versions derive from it."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query

from gateway.control.access import LineageReader, LineageWriter
from gateway.control.answers import Listed
from gateway.control.audit import Action
from gateway.control.licence_store import exclusive_on
from gateway.control.paging import Paging
from gateway.control.priority_forms import Contribution, Model, ModelQuery, NewContribution, NewModel
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import CONTRIBUTION, MODEL, Page
from gateway.control.work import Work
from gateway.faults import Fault
from gateway.licensing.times import to_us
from gateway.priority.checks import check_lineage
from gateway.priority.register import Lineage
from gateway.tenancy.store import read_register

routes = router("lineage")


@routes.get("/contributions", response_model=Listed[Contribution])
async def list_contributions(work: LineageReader, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """All of them, withdrawn ones too."""
    return paging.answer(CONTRIBUTION, await work.page(CONTRIBUTION, paging.page(CONTRIBUTION)))


@routes.post("/contributions", status_code=201, response_model=Contribution)
async def add_contribution(work: LineageWriter, body: NewContribution) -> Row:
    """Register what was contributed."""
    check_contribution(work, body)
    return await work.create(CONTRIBUTION, body.model_dump())


@routes.get("/contributions/{contribution_id}", response_model=Contribution)
async def show_contribution(work: LineageReader, contribution_id: str) -> Row:
    """One contribution."""
    return await work.get(CONTRIBUTION, contribution_id)


@routes.post("/contributions/{contribution_id}/withdraw", response_model=Contribution)
async def withdraw_contribution(work: LineageWriter, contribution_id: str) -> Row:
    """End what follows from a contribution, for good: priority, and exclusivities that rest on it."""
    row = await work.get(CONTRIBUTION, contribution_id)
    if row["withdrawn_at"] is not None:
        return row
    return await work.update(CONTRIBUTION, row, {"withdrawn_at": work.now}, Action.REVOKE)


@routes.get("/models", response_model=Listed[Model])
async def list_models(work: LineageReader, query: Annotated[ModelQuery, Query()]) -> dict[str, Any]:
    """The registered model versions with their lineage."""
    where = {} if query.model is None else {"model": query.model}
    return query.answer(MODEL, await work.page(MODEL, query.page(MODEL, **where)))


@routes.post("/models", response_model=Model)
async def enter_model(work: LineageWriter, body: NewModel) -> Row:
    """Register a model version, or correct its lineage. What a running exclusivity rests on stays."""
    await check_model(work, body)
    rows = await work.page(MODEL, Page({"model": body.model, "model_version": body.model_version}, limit=1))
    if not rows:
        return await work.create(MODEL, body.model_dump())
    return await work.update(MODEL, rows[0], body.model_dump())


def check_contribution(work: Work, body: NewContribution) -> None:
    """Raises `Fault` for a contribution of the future."""
    if body.contributed_at > work.now:
        raise Fault("invalid_value", param="contributed_at", detail="now or earlier")


async def check_model(work: Work, body: NewModel) -> None:
    """Raises `Finding` for a lineage that cannot be, or that a running exclusivity forbids."""
    lineage = Lineage(body.model, body.model_version, body.origin, tuple(body.contributions))
    newest: Mapping[str, Any] = await exclusive_on(work.connection, body.model)
    check_lineage(lineage, newest, await read_register(work.connection), to_us(work.now))
