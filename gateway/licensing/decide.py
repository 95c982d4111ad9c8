"""The licence decision on a compiled index: default deny, an explicit prohibition wins. Pure: no clock, no IO.

A tenant's grants and prohibitions are numbered, and for every fact that a question can state the index holds the set of
clauses that cover it, as the bits of an integer. A decision is the intersection of those sets; the refusal that is told
is the first of `Refusal`'s order at which no grant was left. docs/how-a-decision-is-made.md tells it to people.
"""

from bisect import bisect_right
from typing import Literal

import msgspec

from gateway.licensing.index import ACTION, DATA_CLASS, PURPOSE, REGION, TIER, Grant, LicenceIndex, TenantIndex

__all__ = [
    "Ask",
    "Decision",
    "Grant",
    "LicenceIndex",
    "Refusal",
    "TenantIndex",
    "decide",
    "models_of",
    "permitted_until",
]

Refusal = Literal[
    "",
    "no_grant",
    "prohibited",
    "model_version_not_licensed",
    "action_not_licensed",
    "unknown_purpose",
    "purpose_not_licensed",
    "unknown_data_class",
    "data_class_not_licensed",
    "secret_needs_own_site",
    "country_not_licensed",
    "region_not_licensed",
    "tier_not_licensed",
    "adapter_not_licensed",
    "licence_revoked",
    "licence_expired",
    "licence_not_yet_valid",
    "exclusive_to_another",
]
"""In the order in which a decision looks: the later a refusal stands, the nearer was the permission."""

SECRET = "secret"  # noqa: S105 # the data class
_ALL = -1  # every bit
EXCLUSIVITY_RULE = "R2"  # of gateway/priority/rules.yaml


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What is asked, at the place where it would be served. `adapter` '' is the base model; `own_site`: the place is
    one of the tenant's own sites. `country` is ISO 3166-1 alpha-2."""

    tenant_id: str
    model: str
    model_version: str
    action: str
    purpose: str
    data_class: str
    country: str
    region: str
    tier: str
    adapter: str
    own_site: bool


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Permission by `grant`, or a refusal with the grant that came closest (None: prohibited, or no grant at all).

    `rule_id` and `licence` name the clause that decided, '' where there is none.
    """

    grant: Grant | None
    refusal: Refusal
    rule_id: str
    licence: str
    in_grace: bool

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""
        return self.refusal == ""


_NO_GRANT = Decision(None, "no_grant", "", "", False)
_FACTS: tuple[Refusal, ...] = (
    "model_version_not_licensed",
    "action_not_licensed",
    "purpose_not_licensed",
    "data_class_not_licensed",
    "secret_needs_own_site",
    "country_not_licensed",
    "region_not_licensed",
    "tier_not_licensed",
    "adapter_not_licensed",
)


def decide(index: LicenceIndex, ask: Ask, now: int) -> Decision:
    """Whether `ask` is permitted at `now` (microseconds since the epoch). Of several grants that permit, the first in
    the order of licence id and document decides. What an exclusivity of another owner closes is refused by its rule,
    and by nothing that tells whose it is."""
    tenant = index.get(ask.tenant_id)
    if tenant is None:
        return _NO_GRANT
    times = tenant.times
    moment = bisect_right(times.bounds, now)
    covering = _covering(tenant, ask)
    left = times.in_force[moment]
    for bits in covering:
        left &= bits
    if left > tenant.granting:
        rule_id, licence = tenant.clauses[_first(left & ~tenant.granting)]
        return Decision(None, "prohibited", rule_id, licence, False)
    if left:
        free = left & ~_closed(tenant, f"{ask.model}@{ask.model_version}", now) if tenant.closed else left
        number = _first(free or left)
        grant, (rule_id, licence) = tenant.grants[number], tenant.clauses[number]
        if not free:
            return Decision(grant, "exclusive_to_another", EXCLUSIVITY_RULE, licence, False)
        return Decision(grant, "", rule_id, licence, now >= grant.not_after)
    return _refusal(tenant, ask, covering, moment)


def _closed(tenant: TenantIndex, release: str, now: int) -> int:
    """The grants that exclusivities of other owners close for a release at `now`."""
    bits = 0
    for closing in tenant.closed.get(release, ()):
        if closing.since <= now < closing.until:
            bits |= closing.bits
    return bits


def _covering(tenant: TenantIndex, ask: Ask) -> tuple[int, ...]:
    """For each fact, in the order of `_FACTS`, the bits of the clauses that cover it."""
    places, covering = tenant.places, tenant.covering
    return (
        tenant.releases.get(f"{ask.model}@{ask.model_version}", 0),
        covering[places.actions.get(ask.action, ACTION)],
        covering[places.purposes.get(ask.purpose, PURPOSE)],
        covering[places.data_classes.get(ask.data_class, DATA_CLASS)],
        _ALL if ask.own_site or ask.data_class != SECRET else ~tenant.granting,
        tenant.countries.get(ask.country, ~tenant.granting),
        covering[places.regions.get(ask.region, REGION)],
        covering[places.tiers.get(ask.tier, TIER)],
        tenant.adapters.get(ask.adapter, tenant.any_adapter) if ask.adapter else _ALL,
    )


def _refusal(tenant: TenantIndex, ask: Ask, covering: tuple[int, ...], moment: int) -> Decision:
    """The fact that no grant covers beside all facts before it; where there is none, it is the time."""
    near = tenant.models.get(ask.model, 0)
    if not near:
        return _NO_GRANT
    for fact, bits in zip(_FACTS, covering, strict=True):
        left = near & bits
        if not left:
            return _refused(tenant, near, moment, _told(tenant, ask, fact))
        near = left
    to_come, ended = near & tenant.times.to_come[moment], near & ~tenant.revoked
    if to_come:
        return _refused(tenant, to_come, moment, "licence_not_yet_valid")
    if ended:
        return _refused(tenant, ended, moment, "licence_expired")
    return _refused(tenant, near, moment, "licence_revoked")


def _told(tenant: TenantIndex, ask: Ask, fact: Refusal) -> Refusal:
    if fact == "purpose_not_licensed" and ask.purpose not in tenant.places.purposes:
        return "unknown_purpose"
    if fact == "data_class_not_licensed" and ask.data_class not in tenant.places.data_classes:
        return "unknown_data_class"
    return fact


def _refused(tenant: TenantIndex, bits: int, moment: int, refusal: Refusal) -> Decision:
    """A refusal that names the first grant of `bits` that is in force, else the first."""
    number = _first(bits & tenant.times.in_force[moment] or bits)
    rule_id, licence = tenant.clauses[number]
    return Decision(tenant.grants[number], refusal, rule_id, licence, False)


def _first(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def permitted_until(decision: Decision) -> int:
    """The moment (microseconds since the epoch) at which the permission ends, grace included; 0 for a refusal."""
    return decision.grant.grace_until if decision.allowed and decision.grant is not None else 0


def models_of(index: LicenceIndex, tenant_id: str, now: int) -> list[str]:
    """The models that `tenant_id` may use in some way at `now`, sorted."""
    tenant = index.get(tenant_id)
    if tenant is None:
        return []
    in_force = tenant.times.in_force[bisect_right(tenant.times.bounds, now)]
    whole = in_force & ~tenant.granting
    for unlisted in (ACTION, PURPOSE, DATA_CLASS, REGION, TIER):
        whole &= tenant.covering[unlisted]  # a prohibition that covers what nobody knows covers everything
    usable = {
        release.rpartition("@")[0]
        for release, bits in tenant.releases.items()
        if bits & in_force & tenant.granting & ~_closed(tenant, release, now) and not bits & whole
    }
    return sorted(usable)
