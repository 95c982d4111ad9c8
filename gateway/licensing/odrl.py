"""A licence as a W3C ODRL 2.2 policy in JSON-LD, for tools that read rights expressions. An export, not the contract:
the signed document is. Terms that ODRL has not are of our own profile (prefix `sekisho:`).

ODRL Information Model 2.2, ODRL Vocabulary & Expression 2.2 (W3C Recommendations, 15 February 2018).
"""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from gateway.licensing.document import GrantClause, LicenceDocument, Match
from gateway.licensing.semantics import EVERY

CONTEXT = "http://www.w3.org/ns/odrl.jsonld"
PROFILE = "urn:sekisho:odrl:profile:1"
_TERMS = "urn:sekisho:odrl:"

# Our dimension → ODRL's left operand, or our profile's where ODRL has none.
_OPERANDS = {
    "purposes": "purpose", "regions": "spatial", "data_classes": "sekisho:dataClass", "tiers": "sekisho:tier",
}  # fmt: skip
_QUOTAS = {
    "rpm": "sekisho:requestsPerMinute", "tpm": "sekisho:tokensPerMinute", "concurrency": "sekisho:concurrency",
    "tokens_month": "sekisho:tokensPerMonth", "yen_month_hard": "sekisho:yenPerMonth",
    "yen_month_soft": "sekisho:yenPerMonthWarning",
}  # fmt: skip


def odrl(document: LicenceDocument) -> dict[str, Any]:
    """The policy: an Agreement of issuer (assigner) and licensee (assignee). Prohibitions win over permissions."""
    licence = f"urn:sekisho:licence:{quote(document.licence_id)}"
    policy: dict[str, Any] = {
        "@context": [CONTEXT, {"sekisho": _TERMS, "dcterms": "http://purl.org/dc/terms/"}],
        "@type": "Agreement",
        "uid": f"{licence}:{document.version}",
        "profile": PROFILE,
        "conflict": "prohibit",
        "assigner": _party(document.issuer),
        "assignee": _party(document.licensee.tenant),
        "permission": [*_permissions(document), *_delegations(document)],
        "prohibition": [*_prohibitions(document), _training()],
    }
    if document.validity.grace_days:
        policy["sekisho:graceDays"] = document.validity.grace_days
    if document.duties:
        policy["obligation"] = [{"action": "sekisho:fulfil", "sekisho:duty": duty} for duty in document.duties]
    if document.supersedes is not None:
        policy["dcterms:replaces"] = {"@id": f"{licence}:{document.supersedes}"}
    if document.parent is not None:
        parent = document.parent
        policy["dcterms:source"] = {"@id": f"urn:sekisho:licence:{quote(parent.licence_id)}:{parent.version}"}
    return policy


def _party(name: str) -> str:
    return f"urn:sekisho:party:{quote(name, safe='')}"


def _permissions(document: LicenceDocument) -> Iterator[dict[str, Any]]:
    for grant in document.grants:
        rule: dict[str, Any] = {
            "uid": f"urn:sekisho:rule:{quote(document.licence_id)}:{quote(grant.id)}",
            "target": _assets(grant.models),
            "action": [f"sekisho:{action}" for action in grant.actions],
            "constraint": [*_term(document), *_constraints(grant), *_limits(document, grant)],
        }
        if grant.redistribution:
            rule["action"].append("distribute")
        duties = list(_deletion(grant))
        if duties:
            rule["duty"] = duties
        yield rule


def _assets(models: Sequence[str] | None) -> list[str] | str:
    if models is None:
        return "urn:sekisho:models:%2A"
    return [f"urn:sekisho:models:{quote(model, safe='')}" for model in models]


def _term(document: LicenceDocument) -> Iterator[dict[str, Any]]:
    for operator, moment in (("gteq", document.validity.not_before), ("lt", document.validity.not_after)):
        yield _constraint("dateTime", operator, {"@value": moment.isoformat(), "@type": "xsd:dateTime"})


def _constraints(clause: GrantClause | Match) -> Iterator[dict[str, Any]]:
    for dimension, operand in _OPERANDS.items():
        codes: Sequence[str] | None = getattr(clause, dimension)
        if codes is not None and list(codes) != [EVERY]:
            yield _constraint(operand, "isAnyOf", [f"sekisho:{code}" for code in codes])


def _limits(document: LicenceDocument, grant: GrantClause) -> Iterator[dict[str, Any]]:
    for name, operand in _QUOTAS.items():
        bound = getattr(grant.quota, name)
        if bound is not None:
            yield _constraint(operand, "lteq", bound)
    if grant.adapters and grant.adapters != [EVERY]:
        yield _constraint("sekisho:adapter", "isAnyOf", grant.adapters)
    if not grant.annex3_high_risk:
        yield _constraint("sekisho:annex3HighRisk", "eq", False)
    if grant.priority is not None:
        yield _constraint("sekisho:priorityClass", "eq", f"sekisho:{grant.priority.priority_class}")
        yield _constraint("sekisho:priorityWeight", "eq", grant.priority.weight)
    if grant.rate_card:
        yield _constraint("sekisho:rateCard", "eq", grant.rate_card)
    countries = document.personal_data.processing_countries
    yield _constraint("sekisho:processingCountry", "isAnyOf", countries)


def _deletion(grant: GrantClause) -> Iterator[dict[str, Any]]:
    """ODRL's `delete`: all copies are permanently removed, here after so many days."""
    if grant.zero_retention:
        yield {"action": "delete", "constraint": [_elapsed(0)]}
    elif grant.retention_days is not None:
        yield {"action": "delete", "constraint": [_elapsed(grant.retention_days)]}


def _elapsed(days: int) -> dict[str, Any]:
    return _constraint("elapsedTime", "lteq", {"@value": f"P{days}D", "@type": "xsd:duration"})


def _prohibitions(document: LicenceDocument) -> Iterator[dict[str, Any]]:
    for prohibition in document.prohibitions:
        match = prohibition.match
        every = match.actions is None or match.actions == [EVERY]
        rule: dict[str, Any] = {
            "uid": f"urn:sekisho:rule:{quote(document.licence_id)}:{quote(prohibition.id)}",
            "target": _assets(match.models),
            "action": "use" if every else [f"sekisho:{action}" for action in match.actions or ()],
            "dcterms:description": prohibition.reason,
        }
        constraints = list(_constraints(match))
        if constraints:
            rule["constraint"] = constraints
        yield rule


def _delegations(document: LicenceDocument) -> Iterator[dict[str, Any]]:
    """ODRL's `grantUse` with `nextPolicy`: the licensee may create policies for third parties, within this one."""
    delegation = document.delegation
    if not delegation.allowed:
        return
    constraints = [_constraint("sekisho:delegationDepth", "lteq", delegation.max_depth)]
    if delegation.to:
        constraints.append(_constraint("recipient", "isAnyOf", [_party(tenant) for tenant in delegation.to]))
    models = dict.fromkeys(model for grant in document.grants for model in grant.models)
    yield {
        "target": _assets(list(models)),
        "action": "grantUse",
        "constraint": constraints,
        "duty": [{"action": "nextPolicy", "target": "urn:sekisho:odrl:subset"}],
    }


def _training() -> dict[str, Any]:
    return {"target": "urn:sekisho:data:personal", "action": "sekisho:train"}


def _constraint(operand: str, operator: str, value: Any) -> dict[str, Any]:
    return {"leftOperand": operand, "operator": operator, "rightOperand": value}
