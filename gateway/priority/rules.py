"""The rules R1 to R8 applied: how an owner stands with a model version at a moment, and why. Pure: no clock, no IO.

The rules and the reasons are data (`rules.yaml`). `Standing` is what the scheduler goes by: the group, the owner whose
counter is charged (not the tenant: R8), its weight, and the band that an engine is told.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any, Literal

import yaml

from gateway.faults import Language
from gateway.priority.register import NATIONAL_BASE, Group, Lineage, Policy, Register, Window

RuleId = Literal["R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8"]
BANDS: Mapping[Group, int] = {"priority": 0, "open": 1, "internal": 2}
"""What an engine is told as a second line: the lower, the sooner."""
OPEN_WEIGHT = 1
_INVESTOR, _INTERNAL = "investor", "internal"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a grant in force says of priority: `priority_class` and `weight` as contracted, for a licensee of
    `licensee_class`, by virtue of `contributions`."""

    owner: str
    tenant_id: str
    licensee_class: str
    priority_class: str
    weight: int
    contributions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for a standing: its entry in `rules.yaml` with the values of its text."""

    code: str
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def rule(self) -> RuleId:
        """The rule that it applies."""
        rule: RuleId = REASONS[self.code]["rule"]
        return rule

    def text(self, language: Language) -> str:
        """For a person."""
        template: str = REASONS[self.code][language]
        return template.format_map(self.values)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an owner's requests to a model version stand. `window` is the exclusivity that runs, whoever holds it;
    `open`: whether the owner is served at all."""

    group: Group
    owner: str
    weight: int
    band: int
    window: Window | None
    open: bool
    why: tuple[Reason, ...]


def _load() -> dict[str, Any]:
    text = resources.files("gateway.priority").joinpath("rules.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


_DATA = _load()
RULES: Mapping[RuleId, Mapping[Language, str]] = _DATA["rules"]
REASONS: Mapping[str, Mapping[str, Any]] = _DATA["reasons"]


def standing(
    register: Register,
    claims: Sequence[Claim],
    windows: Iterable[Window],
    tenant_id: str,
    lineage: Lineage,
    at: int,
) -> Standing:
    """How the tenant's owner stands with the version of `lineage` at `at` (microseconds since the epoch).

    `claims` are all of one owner's that are in force for the version, of whichever tenant, at least one of them the
    tenant's; `windows` are those on the version. What no contribution stands behind is open (R1), and a priority
    holder's tenants do not take from the floor besides (R4): the owner has one group, unless the tenant's own contract
    is for internal work only.
    """
    owner = _only_owner(claims)
    assert any(claim.tenant_id == tenant_id for claim in claims)
    policy = register.policy_at(at)
    proven = [(claim, found) for claim in claims if (found := _behind(register, claim, lineage, at))]
    group = _group(claims, bool(proven), tenant_id)
    claimed = max(_claimed(group, claims, [claim for claim, _ in proven]))
    weight = min(claimed, policy.weights.get(group, OPEN_WEIGHT))
    window = next((one for one in windows if one.runs(at) and one.release == lineage.release), None)
    why = [
        *_lineage_reasons(claims, sorted({name for _, found in proven for name in found})),
        *_window_reasons(window, owner, lineage),
        _group_reason(group, policy),
        Reason("one_weight", {"weight": str(weight)}),
    ]
    if weight < claimed:
        why.append(Reason("capped", {"claimed": str(claimed), "weight": str(weight)}))
    closed = window is not None and owner not in window.owners
    return Standing(group, owner, weight, BANDS[group], window, not closed, tuple(why))


def is_internal(claim: Claim) -> bool:
    """Whether the claim is for work of the house itself. A contract of anybody else cannot take the floor from its
    licensee (R4)."""
    return claim.priority_class == _INTERNAL and claim.licensee_class == _INTERNAL


def moment_text(at: int) -> str:
    """RFC 3339 in UTC."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat().replace("+00:00", "Z")


def share_text(permille: int) -> str:
    """A share as people read it: `30 %`."""
    return f"{permille / 10:g} %"


def _only_owner(claims: Sequence[Claim]) -> str:
    owners = {claim.owner for claim in claims}
    if len(owners) != 1:
        raise ValueError(f"claims of {len(owners)} owners")
    return owners.pop()


def _behind(register: Register, claim: Claim, lineage: Lineage, at: int) -> tuple[str, ...]:
    """The contributions in the lineage that stand behind a claim of priority (R1)."""
    if claim.priority_class != _INVESTOR:
        return ()
    return tuple(name for name in register.from_owner(lineage, claim.owner, at) if name in claim.contributions)


def _group(claims: Sequence[Claim], proven: bool, tenant_id: str) -> Group:
    if all(is_internal(claim) for claim in claims if claim.tenant_id == tenant_id):
        return "internal"
    return "priority" if proven else "open"


def _claimed(group: Group, claims: Sequence[Claim], proven: Sequence[Claim]) -> Iterable[int]:
    """The weights that count in a group. What an investor was promised for its own models counts for no other."""
    if group == "priority":
        return [claim.weight for claim in proven]
    if group == "internal":
        return [claim.weight for claim in claims if is_internal(claim)]
    return [OPEN_WEIGHT, *(claim.weight for claim in claims if claim.priority_class not in (_INVESTOR, _INTERNAL))]


def _lineage_reasons(claims: Sequence[Claim], contributions: Sequence[str]) -> list[Reason]:
    if contributions:
        return [Reason("lineage", {"contributions": ", ".join(contributions)})]
    claimed = any(claim.priority_class == _INVESTOR for claim in claims)
    return [Reason("no_lineage" if claimed else "no_claim")]


def _window_reasons(window: Window | None, owner: str, lineage: Lineage) -> list[Reason]:
    if lineage.origin == NATIONAL_BASE:
        return [Reason("base_model")]
    if window is None:
        return []
    if window.holder == owner:
        return [Reason("own_window", {"until": moment_text(window.until)})]
    return [Reason("other_window")]


def _group_reason(group: Group, policy: Policy) -> Reason:
    if group == "internal":
        return Reason("internal")
    values = {"floor": share_text(policy.floor("open")), "policy": str(policy.version)}
    return Reason("floor" if group == "open" else "beside_floor", values)
