"""Re-contracts (再委託): a child licence may permit nothing that its parent does not. Pure.

Every field that can widen a right is compared; what cannot be shown to be narrower counts as wider. Each grant must lie
within one grant of the parent, and what the parent forbids or demands must be carried over.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from operator import attrgetter

from gateway.licensing.document import (
    GrantClause,
    LicenceDocument,
    LicenseeClass,
    Match,
    Priority,
    Quota,
    Validity,
)
from gateway.licensing.findings import Finding
from gateway.licensing.patterns import parse_pattern
from gateway.licensing.semantics import EVERY

_CODE_FIELDS = ("actions", "purposes", "data_classes", "regions", "tiers", "adapters")
_BOUNDS = (*(f"quota.{name}" for name in Quota.__struct_fields__), "retention_days")
_MATCH_FIELDS = ("actions", "purposes", "data_classes", "regions", "tiers")
# Who is served first; a child may step down, never up.
_RANK: dict[LicenseeClass, int] = {"internal": 0, "public": 1, "research": 1, "investor": 2}
_HANDLING_RANK = {"none": 0, "zero_retention": 1, "entrusted": 2}
_WIDER = "child_wider_than_parent"


def check_subset(child: LicenceDocument, parent: LicenceDocument) -> None:
    """Raise a `Finding` with the child's field unless `child` lies within `parent`: parent_missing (cut from another
    licence), tenant_mismatch, delegation_not_allowed, delegation_too_deep, child_wider_than_parent."""
    _check_line(child, parent)
    for path, detail in wider_fields(child, parent):
        raise Finding(_WIDER, path, detail)


def _check_line(child: LicenceDocument, parent: LicenceDocument) -> None:
    if child.parent is None or child.parent.licence_id != parent.licence_id:
        raise Finding("parent_missing", "parent.licence_id", parent.licence_id)
    if child.issuer != parent.licensee.tenant:
        raise Finding("tenant_mismatch", "issuer", f"{child.issuer}, not the parent's tenant {parent.licensee.tenant}")
    if not parent.delegation.allowed:
        raise Finding("delegation_not_allowed", "parent", "the parent's delegation.allowed is false")
    if parent.delegation.to and child.licensee.tenant not in parent.delegation.to:
        raise Finding("delegation_not_allowed", "licensee.tenant", f"{child.licensee.tenant} is not among those named")
    if child.delegation.max_depth >= parent.delegation.max_depth:
        raise Finding(
            "delegation_too_deep",
            "delegation.max_depth",
            f"{child.delegation.max_depth}, the parent has {parent.delegation.max_depth}",
        )


def wider_fields(child: LicenceDocument, parent: LicenceDocument) -> Iterator[tuple[str, str]]:
    """Every field of `child` that goes beyond `parent`, each with what was seen."""
    yield from _wider_licensee(child, parent)
    yield from _wider_validity(child.validity, parent.validity)
    yield from _wider_delegation(child, parent)
    for place, grant in enumerate(child.grants):
        yield from _uncovered(f"grants[{place}]", grant, parent.grants)
    for prohibition in parent.prohibitions:
        if not any(_match_covers(own.match, prohibition.match) for own in child.prohibitions):
            yield "prohibitions", f"the parent's prohibition {prohibition.id} is not carried over"
    for duty in parent.duties:
        if duty not in child.duties:
            yield "duties", f"the parent's duty {str(duty)[:80]!r} is not carried over"
    yield from _wider_ip(child, parent)
    yield from _wider_personal_data(child, parent)


def _wider_licensee(child: LicenceDocument, parent: LicenceDocument) -> Iterator[tuple[str, str]]:
    own, given = child.licensee, parent.licensee
    if _RANK[own.licensee_class] > _RANK[given.licensee_class]:
        yield "licensee.class", f"{own.licensee_class}, the parent has {given.licensee_class}"
    if own.role != given.role and given.role == "deployer":
        yield "licensee.role", f"{own.role}, the parent has {given.role}"
    if own.country not in (given.country, *parent.personal_data.processing_countries):
        yield "licensee.country", f"{own.country} is neither the parent's country nor one it may process in"


def _wider_validity(own: Validity, given: Validity) -> Iterator[tuple[str, str]]:
    if own.not_before < given.not_before:
        yield "validity.not_before", "before the parent's"
    if own.not_after > given.not_after:
        yield "validity.not_after", "after the parent's"
    elif own.not_after + timedelta(days=own.grace_days) > given.not_after + timedelta(days=given.grace_days):
        yield "validity.grace_days", "ends after the parent's grace"
    if own.notice_days > given.notice_days:
        yield "validity.notice_days", f"{own.notice_days}, the parent has {given.notice_days}"


def _wider_delegation(child: LicenceDocument, parent: LicenceDocument) -> Iterator[tuple[str, str]]:
    own, given = child.delegation.to, parent.delegation.to
    if child.delegation.allowed and given and (not own or not set(own) <= set(given)):
        yield "delegation.to", "names others than the parent does"


def _uncovered(path: str, grant: GrantClause, given: Sequence[GrantClause]) -> Iterator[tuple[str, str]]:
    """Nothing if one of the parent's grants covers `grant`; else what the nearest of them does not."""
    # The grant of the same name is the likely one.
    ordered = sorted(given, key=lambda candidate: candidate.id != grant.id)
    if any(next(_wider_grant(path, grant, candidate), None) is None for candidate in ordered):
        return
    yield from min((list(_wider_grant(path, grant, candidate)) for candidate in ordered), key=len)


def _wider_grant(path: str, own: GrantClause, given: GrantClause) -> Iterator[tuple[str, str]]:
    against = f"beyond the parent's grant {given.id}"
    for place, model in enumerate(own.models):
        if not _model_within(model, given.models):
            yield f"{path}.models[{place}]", f"{model} {against}"
    for name in _CODE_FIELDS:
        extra = _beyond(getattr(own, name), getattr(given, name))
        if extra:
            yield f"{path}.{name}", f"{', '.join(extra)} {against}"
    for name in _BOUNDS:
        limit = attrgetter(name)
        if _more(limit(own), limit(given)):
            yield f"{path}.{name}", against
    yield from _wider_terms(path, own, given)
    yield from _wider_priority(f"{path}.priority", own.priority, given.priority)


def _wider_terms(path: str, own: GrantClause, given: GrantClause) -> Iterator[tuple[str, str]]:
    for name in ("redistribution", "annex3_high_risk"):
        if getattr(own, name) and not getattr(given, name):
            yield f"{path}.{name}", f"not permitted by the parent's grant {given.id}"
    if own.rate_card != given.rate_card:
        yield f"{path}.rate_card", f"{own.rate_card!r}, the parent's grant {given.id} has {given.rate_card!r}"
    if given.zero_retention and not own.zero_retention:
        yield f"{path}.zero_retention", f"demanded by the parent's grant {given.id}"


def _wider_priority(path: str, own: Priority | None, given: Priority | None) -> Iterator[tuple[str, str]]:
    if own is None:
        return
    if given is None:
        yield path, "the parent's grant has none"
        return
    if _RANK[own.priority_class] > _RANK[given.priority_class]:
        yield f"{path}.class", f"{own.priority_class}, the parent has {given.priority_class}"
    if own.weight > given.weight:
        yield f"{path}.weight", f"{own.weight}, the parent has {given.weight}"


def _wider_ip(child: LicenceDocument, parent: LicenceDocument) -> Iterator[tuple[str, str]]:
    extra = _beyond(child.ip.contributions, parent.ip.contributions)
    if extra:
        yield "ip.contributions", f"{', '.join(extra)} not among the parent's"
    for place, own in enumerate(child.ip.exclusive):
        same = [item for item in parent.ip.exclusive if (item.model, item.scope) == (own.model, own.scope)]
        if not any(own.until <= item.until for item in same):
            yield f"ip.exclusive[{place}]", f"{own.model} is not the parent's for so long"


def _wider_personal_data(child: LicenceDocument, parent: LicenceDocument) -> Iterator[tuple[str, str]]:
    own, given = child.personal_data, parent.personal_data
    if _HANDLING_RANK[own.handling_mode] > _HANDLING_RANK[given.handling_mode]:
        yield "personal_data.handling_mode", f"{own.handling_mode}, the parent has {given.handling_mode}"
    extra = _beyond(own.processing_countries, given.processing_countries)
    if extra:
        yield "personal_data.processing_countries", f"{', '.join(extra)} not among the parent's"


def _match_covers(own: Match, given: Match) -> bool:
    """Whether the child's prohibition forbids all that the parent's does."""
    if own.models is not None and (
        given.models is None or not all(_model_within(model, own.models) for model in given.models)
    ):
        return False
    for name in _MATCH_FIELDS:
        wide: list[str] | None = getattr(own, name)
        narrow: list[str] | None = getattr(given, name)
        if wide is not None and _beyond([EVERY] if narrow is None else narrow, wide):
            return False
    return True


def _model_within(model: str, given: Sequence[str]) -> bool:
    return any(parse_pattern(pattern).covers(parse_pattern(model)) for pattern in given)


def _beyond(own: Sequence[str], given: Sequence[str]) -> list[str]:
    """What `own` names and `given` does not. "*" is only within "*": the registers grow."""
    return [] if EVERY in given else sorted(set(own) - set(given))


def _more(own: int | None, given: int | None) -> bool:
    """Whether one bound lets through more than the other; None is no bound."""
    return given is not None and (own is None or own > given)
