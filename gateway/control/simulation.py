"""`/licences/simulate`: what a changed licence would have decided otherwise, told from the journal. Changes nothing."""

from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import timedelta
from typing import Any

from fastapi import Request
from msgspec.structs import replace

from gateway.control.access import LicenceSimulator
from gateway.control.door import language_in
from gateway.control.forms import Simulation
from gateway.control.licence_store import Kept, line_of, newest_rows
from gateway.control.route import router
from gateway.control.simulation_store import EXAMPLES_MAX, Decided, Place, decisions, places_served
from gateway.control.tables import TENANT
from gateway.control.work import Work
from gateway.faults import Language
from gateway.licensing.compile import compile_tenant
from gateway.licensing.decide import Ask, LicenceIndex, decide
from gateway.licensing.document import LicenceDocument, StoredLicence
from gateway.licensing.envelope import canonical, open_envelope, parse_document
from gateway.licensing.findings import Finding
from gateway.licensing.registers import REGISTERS
from gateway.licensing.semantics import check_meaning
from gateway.licensing.simulate import Change, Recorded, Verdict, render, simulate
from gateway.licensing.times import to_us
from gateway.licensing.trust import Trust
from gateway.licensing.verify import verify_alone
from gateway.tenancy.store import read_trust

routes = router("licences")

SPAN_DAYS = 30
CHANGES_MAX = 1_000
_LICENCES_MAX = 10_000
_MOVED: Mapping[Language, str] = {
    "en": "\n{n} were decided otherwise since then, by licences that are in force already; they are not counted.",
    "ja": "\nほかに、記録後のライセンスの変更によりすでに結果が異なる判定が{n}件あります（上の件数には含みません）。",
}


@routes.post("/licences/simulate")
async def simulate_licence(work: LicenceSimulator, request: Request, body: Simulation) -> dict[str, Any]:
    """Replay the tenant's recorded decisions with the licence in place of its newest version."""
    document = _document(body)
    tenant = await work.get(TENANT, document.licensee.tenant)
    end = body.end or work.now
    start = body.start or end - timedelta(days=SPAN_DAYS)
    sites = set(tenant["sites"])
    decided = await decisions(work.connection, tenant["tenant_id"], sites, start, end)
    places = await places_served(work.connection)
    served = {(place.model, place.model_version) for place in places}
    served |= {(one.recorded.ask.model, one.recorded.ask.model_version) for one in decided if one.placed}
    present = await _in_force(work, tenant["tenant_id"], document)
    tried = {**present, document.licence_id: StoredLicence(document, "")}
    before, after = (_index(tenant["tenant_id"], licences, served) for licences in (present, tried))
    at = None if body.at is None else to_us(body.at)
    asks = [one.recorded.ask if one.placed else _placed(one, after, places, sites) for one in decided]
    recorded = [_at_present(one, ask, before, at) for one, ask in zip(decided, asks, strict=True)]
    changes = simulate(recorded, after, at)
    replayed = sum(one.n for one in recorded)
    moved = sum(one.recorded.n for one in decided if _moved(one, before))
    examples: dict[Any, list[str]] = {}
    for one, of in zip(recorded, decided, strict=True):
        examples.setdefault((one.ask, one.verdict), []).extend(of.examples)
    language = language_in(request.scope)
    return {
        "tenant": tenant["tenant_id"], "licence": document.licence_id, "from": start.isoformat(),
        "to": end.isoformat(), "replayed": replayed, "changed": sum(change.n for change in changes), "moved": moved,
        "changes": [_shown(change, examples) for change in changes[:CHANGES_MAX]],
        "text": render(changes[:CHANGES_MAX], replayed, language) + (_MOVED[language].format(n=moved) if moved else ""),
    }  # fmt: skip


def _document(body: Simulation) -> LicenceDocument:
    """The licence to try. Raises `Finding` where it is none; signatures do not matter."""
    if body.envelope is not None:
        document = open_envelope(body.envelope).document
    else:
        assert body.document is not None
        document = parse_document(canonical(body.document))
    check_meaning(document, REGISTERS)
    return document


async def _in_force(work: Work, tenant_id: str, tried: LicenceDocument) -> dict[str, StoredLicence]:
    """The tenant's licences that verify, and those above them and above `tried`."""
    rows = await newest_rows(work.connection, tenant_id, "", _LICENCES_MAX, work.actor.reach)
    names = [row["licence_id"] for row in rows if row["envelope"] is not None]
    line = await line_of(work.connection, *names)
    if tried.parent is not None and tried.parent.licence_id not in line:
        above = await line_of(work.connection, tried.parent.licence_id)
        kept = above.get(tried.parent.licence_id)
        # Nobody has signed: of a parent out of reach the answer must not tell that there is one.
        if kept is not None and work.actor.reach.covers(kept.sealed.document.licensee.tenant):
            line = {**above, **line}
    trust = await read_trust(work.connection)
    return {licence_id: kept.stored for licence_id, kept in line.items() if _verifies(kept, trust)}


def _verifies(kept: Kept, trust: Trust) -> bool:
    try:
        verify_alone(kept.sealed, trust, REGISTERS)
    except Finding:
        return False
    return True


def _index(tenant_id: str, licences: Mapping[str, StoredLicence], served: Iterable[tuple[str, str]]) -> LicenceIndex:
    catalogue: dict[str, set[str]] = {}
    for model, version in served:
        catalogue.setdefault(model, set()).add(version)
    own = [licence for licence in licences.values() if licence.document.licensee.tenant == tenant_id]
    frozen = {model: frozenset(versions) for model, versions in catalogue.items()}
    return {tenant_id: compile_tenant(own, frozen, REGISTERS, licences)}


def _at_present(decided: Decided, ask: Ask, present: LicenceIndex, at: int | None) -> Recorded:
    """The question with what the present licences say to it. What was recorded may be the work of another licence that
    has ended since, or of another reason; a change must come from the licence that is tried."""
    recorded = decided.recorded
    return Recorded(ask, recorded.at, _verdict(present, ask, recorded.at if at is None else at), recorded.n)


def _moved(decided: Decided, present: LicenceIndex) -> bool:
    """Whether the licences decided otherwise when it was recorded than they do now."""
    recorded = decided.recorded
    return decided.by_licence and decided.placed and _verdict(present, recorded.ask, recorded.at) != recorded.verdict


def _verdict(index: LicenceIndex, ask: Ask, at: int) -> Verdict:
    decision = decide(index, ask, at)
    return Verdict(decision.refusal, decision.rule_id)


def _placed(decided: Decided, after: LicenceIndex, places: Sequence[Place], sites: Set[str]) -> Ask:
    """What found no place, as it would find one now: where the licence to try permits it, else anywhere."""
    recorded = decided.recorded
    asks = [
        replace(
            recorded.ask, model_version=place.model_version, country=place.country, region=place.region,
            tier=place.tier, own_site=place.site in sites,
        )
        for place in places
        if place.model == recorded.ask.model
    ]  # fmt: skip
    permitted = (ask for ask in asks if decide(after, ask, recorded.at).allowed)
    return next(permitted, asks[0] if asks else recorded.ask)


def _shown(change: Change, examples: Mapping[Any, Sequence[str]]) -> dict[str, Any]:
    ask = change.ask
    return {
        "kind": change.kind, "n": change.n, "model": ask.model, "model_version": ask.model_version,
        "action": ask.action, "purpose": ask.purpose, "data_class": ask.data_class, "country": ask.country,
        "region": ask.region, "tier": ask.tier,
        "before": {"refusal": change.before.refusal, "rule": change.before.rule_id},
        "after": {"refusal": change.after.refusal, "rule": change.after.rule_id},
        "examples": list(examples.get((ask, change.before), ()))[:EXAMPLES_MAX],
    }  # fmt: skip
