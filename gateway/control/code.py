"""Tenants as code: `/plan` shows what `/apply` would do with a desired state, `/export` writes the present one down."""

from typing import Any

from pydantic import Field

from gateway.control import fields as f
from gateway.control.access import Applier, Planner
from gateway.control.answers import ApplyAnswer, PlanAnswer
from gateway.control.apply import Applied, apply
from gateway.control.book_store import Book, read_book, read_epoch
from gateway.control.desired import Desired, contradictions
from gateway.control.exported import exported
from gateway.control.forms import Form
from gateway.control.plan import plan_digest, summary
from gateway.control.refusals import Problems
from gateway.control.route import router
from gateway.control.work import Work
from gateway.faults import Fault

routes = router("tenants as code")


class Planned(Form):
    """A desired state, and what the book must still be like: the digest of the plan that was read, or its epoch."""

    desired: Desired
    plan_digest: f.Digest | None = None
    epoch: int | None = Field(default=None, ge=0, le=f.COUNT_MAX)


@routes.post("/plan", response_model=PlanAnswer)
async def plan(work: Planner, body: Planned) -> dict[str, Any]:
    """What an application of the state would change. Nothing is written."""
    trial = work.connection.transaction()
    await trial.start()
    try:
        book, applied = await _applied(work, body.desired)
        return _answer(applied, book.epoch)
    finally:
        await trial.rollback()


@routes.post("/apply", response_model=ApplyAnswer)
async def apply_all(work: Applier, body: Planned) -> dict[str, Any]:
    """Bring the book to the state: all of it, or nothing. The texts of new keys are in this answer only."""
    if body.epoch is not None and body.epoch != await read_epoch(work.connection):
        raise Fault("book_moved")
    _, applied = await _applied(work, body.desired)
    if body.plan_digest is not None and body.plan_digest != plan_digest(applied.changes):
        raise Fault("book_moved")
    return {**_answer(applied, await read_epoch(work.connection)), "issued": applied.issued}


@routes.get("/export")
async def export(work: Planner) -> dict[str, Any]:
    """The book as a desired state, which a plan finds unchanged."""
    return exported(work, await read_book(work.connection, work.actor.reach))


async def _applied(work: Work, desired: Desired) -> tuple[Book, Applied]:
    problems = contradictions(desired)
    if problems:
        raise Problems(problems)
    book = await read_book(work.connection, work.actor.reach)
    applied = await apply(work, book, desired)
    if applied.problems:
        raise Problems(applied.problems)
    return book, applied


def _answer(applied: Applied, epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "plan_digest": plan_digest(applied.changes),
        "summary": summary(applied.changes),
        "changes": [change.outside() for change in applied.changes],
    }
