"""`/priority/policies`, the signed terms of priority; and how a tenant stands with a model under them."""

import json
from typing import Annotated, Any

from fastapi import Query, Request
from packaging.version import Version

from gateway.control.access import PolicyReader, PolicySubmitter, PriorityReader
from gateway.control.answers import Listed
from gateway.control.book_store import read_epoch
from gateway.control.door import language_in
from gateway.control.forms import Envelope
from gateway.control.paging import Paging
from gateway.control.plane import Plane
from gateway.control.priority_forms import Policy, StandingAnswer, StandingQuery
from gateway.control.refusals import not_found
from gateway.control.route import router
from gateway.control.store import Row
from gateway.control.tables import POLICY, Page
from gateway.faults import Language
from gateway.licensing.times import from_us, to_us
from gateway.priority.policy import PolicyDocument, admit_policy, open_policy
from gateway.priority.rules import Standing
from gateway.tenancy.snapshot import Snapshot
from gateway.tenancy.store import read_trust

routes = router("priority")

_POLICIES_MAX = 10_000


@routes.get("/priority/policies", response_model=Listed[Policy])
async def list_policies(work: PolicyReader, paging: Annotated[Paging, Query()]) -> dict[str, Any]:
    """All signed policies; past ones and ones to come too."""
    return paging.answer(POLICY, await work.page(POLICY, paging.page(POLICY)))


@routes.post("/priority/policies", status_code=201, response_model=Policy)
async def submit_policy(work: PolicySubmitter, body: Envelope) -> Row:
    """Enter a policy that issuer and approver have signed; it begins after the notice of the one before."""
    rows = await work.page(POLICY, Page(limit=_POLICIES_MAX))
    newest = _document(rows[-1]) if rows else None
    if rows and rows[-1]["envelope"] == body.envelope.removesuffix("\n"):
        return rows[-1]
    sealed = admit_policy(body.envelope, await read_trust(work.connection), newest, to_us(work.now))
    document, enclosed = sealed.document, sealed.enclosed
    values = {
        "version": document.version, "effective_from": document.effective_from,
        "document": json.loads(enclosed.payload), "envelope": enclosed.text,
    }  # fmt: skip
    return await work.create(POLICY, values)


@routes.get("/tenants/{tenant_id}/priority", response_model=StandingAnswer)
async def explain(
    work: PriorityReader, tenant_id: str, query: Annotated[StandingQuery, Query()], request: Request
) -> dict[str, Any]:
    """The group, weight and window of a tenant with a model, and why, as gateways decide it."""
    plane: Plane = request.app.state.plane
    snapshot = await plane.limits.snapshot(await read_epoch(work.connection))
    at = to_us(query.at or work.now)
    model, _, version = query.model.partition("@")
    for release in [version] if version else _versions(snapshot, model):
        found = snapshot.priorities.standing(snapshot.licences, tenant_id, f"{model}@{release}", at)
        if found is not None:
            return {**_told(snapshot, found, at, language_in(request.scope)), "tenant": tenant_id, "model": model,
                    "model_version": release}  # fmt: skip
    raise not_found("model", query.model, "model")


def _document(row: Row) -> PolicyDocument:
    return open_policy(row["envelope"]).document


def _versions(snapshot: Snapshot, model: str) -> list[str]:
    """The versions that are served, the newest first."""
    served = {upstream.model_version for upstream in snapshot.upstreams.get(model, ())}
    return sorted(served, key=Version, reverse=True)


def _told(snapshot: Snapshot, found: Standing, at: int, language: Language) -> dict[str, Any]:
    """Whose an exclusivity is, and until when, is told to its holder only."""
    policy = snapshot.priorities.register.policy_at(at)
    window = found.window
    own = window is not None and window.holder == found.owner
    return {
        "at": from_us(at), "open": found.open, "group": found.group, "owner": found.owner, "weight": found.weight,
        "band": found.band, "floor_permille": policy.floor("open"), "policy": policy.version,
        "window": None if window is None else {"own": own, "until": from_us(window.until) if own else None},
        "why": [{"rule": one.rule, "code": one.code, "text": one.text(language)} for one in found.why],
    }  # fmt: skip
