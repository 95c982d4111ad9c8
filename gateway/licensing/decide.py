"""Pure licence decision on a compiled index. Default deny. No clock, no IO."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Refusal = Literal["", "no_grant", "action_not_licensed", "licence_not_yet_valid", "licence_expired"]


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant of one licence, for one model. Times in microseconds since the epoch; `not_after` is exclusive."""

    rule_id: str
    licence_id: str
    licence_version: int
    signed: bool
    actions: frozenset[str]
    not_before: int
    not_after: int

    @property
    def licence(self) -> str:
        """`<id>@<version>`, as responses name it."""
        return f"{self.licence_id}@{self.licence_version}"


LicenceIndex = Mapping[str, Mapping[str, tuple[Grant, ...]]]
"""tenant → model → grants. Swapped as a whole, never changed in place."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The grant that permits the request, or the refusal and the grant that came closest (None: no grant at all)."""

    grant: Grant | None
    refusal: Refusal

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""
        return self.refusal == ""


_NO_GRANT = Decision(None, "no_grant")
# The refusal that is told when several grants refuse: the one nearest to a permission.
_NEAREST: tuple[Refusal, ...] = ("licence_expired", "licence_not_yet_valid", "action_not_licensed")


def decide(index: LicenceIndex, tenant_id: str, model: str, action: str, now: int) -> Decision:
    """Whether `tenant_id` may do `action` with `model` at the time `now` (microseconds since the epoch)."""
    grants = index.get(tenant_id, {}).get(model, ())
    best = _NO_GRANT
    for grant in grants:
        refusal = _refusal(grant, action, now)
        if refusal == "":
            return Decision(grant, "")
        if best.grant is None or _NEAREST.index(refusal) > _NEAREST.index(best.refusal):
            best = Decision(grant, refusal)
    return best


def _refusal(grant: Grant, action: str, now: int) -> Refusal:
    if now >= grant.not_after:
        return "licence_expired"
    if now < grant.not_before:
        return "licence_not_yet_valid"
    if action not in grant.actions:
        return "action_not_licensed"
    return ""


def models_of(index: LicenceIndex, tenant_id: str, now: int) -> list[str]:
    """The models that `tenant_id` may use in some way at `now`, sorted."""
    return sorted(
        model
        for model, grants in index.get(tenant_id, {}).items()
        if any(grant.not_before <= now < grant.not_after for grant in grants)
    )
