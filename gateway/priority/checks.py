"""What is checked when a licence, a model's lineage or a policy is saved. Pure; a `Finding` names rule, field and cure.

Refused is what would take something from others or cannot be true. A claim of priority that no lineage stands behind
yet is only reported: contracts name models by pattern and are signed before the models are trained, and until the
lineage is registered the claim has no effect (R1).
"""

from collections.abc import Iterator, Mapping

from packaging.version import Version

from gateway.licensing.compile import owner_of
from gateway.licensing.document import Exclusive, GrantClause, LicenceDocument, StoredLicence
from gateway.licensing.findings import Finding
from gateway.licensing.patterns import parse_pattern
from gateway.licensing.times import DAY_US, from_us, to_us
from gateway.priority.register import (
    FLOOR_PERMILLE_MIN,
    NATIONAL_BASE,
    WHOLE_PERMILLE,
    Group,
    Lineage,
    Policy,
    Register,
    exclusive_until,
)
from gateway.priority.rules import share_text
from gateway.priority.windows import rests_on, windows_of


def check_licence(document: LicenceDocument, newest: Mapping[str, StoredLicence], register: Register) -> None:
    """Raise the first `Finding` of a licence that the rules forbid. `newest` finds what it is cut from."""
    owner = owner_of(document, newest)
    for place, name in enumerate(document.ip.contributions):
        known = register.contributions.get(name)
        if known is None or known.owner != owner:  # one answer: whose it is, is not told
            raise Finding("unknown_contribution", f"ip.contributions[{place}]", name)
    for place, grant in enumerate(document.grants):
        _check_class(document, grant, f"grants[{place}].priority.class")
    policy = register.policy_at(to_us(document.validity.not_before))
    for place, item in enumerate(document.ip.exclusive):
        _check_exclusive(document, item, f"ip.exclusive[{place}]", owner, register, policy)


def notices(document: LicenceDocument, newest: Mapping[str, StoredLicence], register: Register) -> list[Finding]:
    """What a licence says that has no effect as things are. It may be stored."""
    owner = owner_of(document, newest)
    policy = register.policy_at(to_us(document.validity.not_before))
    return [
        finding
        for place, grant in enumerate(document.grants)
        if grant.priority is not None
        for finding in _notices(document, grant, f"grants[{place}].priority", owner, register, policy)
    ]


def check_lineage(lineage: Lineage, newest: Mapping[str, StoredLicence], register: Register, now: int) -> None:
    """Raise a `Finding` unless every contribution is registered, and no exclusivity that runs or is to come loses what
    it rests on. `newest` are the licences that state one on the model."""
    for place, name in enumerate(lineage.contributions):
        if name not in register.contributions:
            raise Finding("unknown_contribution", f"contributions[{place}]", name)
    key = (lineage.model, lineage.model_version)
    changed = Register(register.contributions, {**register.lineages, key: lineage}, register.policies)
    kept = {(window.release, window.holder, window.until) for window in windows_of(newest, changed)}
    for window in windows_of(newest, register):
        if window.until > now and (window.release, window.holder, window.until) not in kept:
            detail = f"{window.release}, exclusive until {from_us(window.until)}"
            if lineage.origin == NATIONAL_BASE:
                raise Finding("exclusive_on_base_model", "origin", detail)
            raise Finding("exclusive_without_lineage", "contributions", detail)


def check_policy(policy: Policy, before: Policy, now: int) -> None:
    """Raise a `Finding` unless a policy keeps the floor (R4) and gives the notice that the one before it demands."""
    if policy.floor("open") < FLOOR_PERMILLE_MIN:
        detail = f"{share_text(policy.floor('open'))}, at least {share_text(FLOOR_PERMILLE_MIN)}"
        raise Finding("floor_too_low", "floors.open", detail)
    whole = sum(policy.floors.values())
    if whole > WHOLE_PERMILLE:
        raise Finding("floors_exceed_whole", "floors", share_text(whole))
    earliest = now + before.notice_days * DAY_US
    if policy.effective_from < earliest:
        raise Finding("notice_too_short", "effective_from", f"{before.notice_days} days, from {from_us(earliest)} on")


def _check_class(document: LicenceDocument, grant: GrantClause, path: str) -> None:
    """Internal work is served from what nobody else wants: a contract cannot take the floor from its licensee."""
    internal = grant.priority is not None and grant.priority.priority_class == "internal"
    if internal and document.licensee.licensee_class != "internal":
        raise Finding("floor_broken", path, f"internal, the licensee is {document.licensee.licensee_class}")


def _check_exclusive(
    document: LicenceDocument, item: Exclusive, path: str, owner: str, register: Register, policy: Policy
) -> None:
    versions = register.versions(item.model)
    if any(lineage.origin == NATIONAL_BASE for lineage in versions):
        raise Finding("exclusive_on_base_model", f"{path}.model", item.model)
    if not any(rests_on(document, item, owner, lineage, register) for lineage in versions):
        raise Finding("exclusive_without_lineage", f"{path}.basis", f"{item.model} from {item.basis}")
    latest = exclusive_until(register.contributions[item.basis], policy)
    if to_us(item.until) > latest:
        raise Finding("exclusive_too_long", f"{path}.until", f"{from_us(to_us(item.until))}, at most {from_us(latest)}")


def _notices(
    document: LicenceDocument, grant: GrantClause, path: str, owner: str, register: Register, policy: Policy
) -> Iterator[Finding]:
    assert grant.priority is not None
    investor = grant.priority.priority_class == "investor"
    lineages = register.lineages.values()
    if investor and not any(_derived(document, grant, owner, lineage, register) for lineage in lineages):
        yield Finding("priority_without_lineage", path, ", ".join(grant.models))
    group: Group = "priority" if investor else "internal" if grant.priority.priority_class == "internal" else "open"
    most = policy.weights.get(group, 1)
    if grant.priority.weight > most:
        yield Finding("weight_above_policy", f"{path}.weight", f"{grant.priority.weight}, at most {most}")


def _derived(document: LicenceDocument, grant: GrantClause, owner: str, lineage: Lineage, register: Register) -> bool:
    named = set(document.ip.contributions) & set(lineage.contributions)
    own = any(register.contributions[name].owner == owner for name in named if name in register.contributions)
    version = Version(lineage.model_version)
    return own and any(parse_pattern(text).matches(lineage.model, version) for text in grant.models)
