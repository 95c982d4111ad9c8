"""One immutable picture of the configuration, swapped whole. Requests read it without locks or queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from billing.off_peak import priced_at
from billing.rating import PUBLISHED, RateCard
from gateway.faults import Fault
from gateway.identity.access import Access
from gateway.identity.credentials import Credentials
from gateway.licensing.decide import Grant, LicenceIndex
from gateway.limits.levels import UNBOUNDED, LimitLevel, Limits, Raise
from gateway.priority.claims import Priorities
from gateway.upstreams.types import Upstream


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant and its limits; `zone` is an IANA time-zone name, `sites` are the sites of its own."""

    tenant_id: str
    zone: str
    limits: Limits
    sites: frozenset[str] = frozenset()

    def owns(self, tenant_id: str) -> bool:
        """Whether what belongs to `tenant_id` is this tenant's."""
        return tenant_id == self.tenant_id


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that decides about a request, as of `epoch`. `projects` are limits by (tenant, project), `raises` of
    them by tenant and level (`tenant`, `project:alpha`): past ones and ones to come too."""

    epoch: int
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    projects: Mapping[tuple[str, str], Limits] = field(default_factory=dict)
    raises: Mapping[str, Mapping[str, Sequence[Raise]]] = field(default_factory=dict)
    credentials: Credentials = field(default_factory=lambda: Credentials({}, {}, {}))
    licences: LicenceIndex = field(default_factory=dict)
    upstreams: Mapping[str, tuple[Upstream, ...]] = field(default_factory=dict)
    rate_cards: Mapping[str, tuple[RateCard, ...]] = field(default_factory=dict)
    priorities: Priorities = field(default_factory=Priorities)

    def rate_card(self, model: str, at: int, action: str, tenant_id: str, family: str) -> RateCard:
        """The prices of a request for `action` that `tenant_id` opened at `at` (microseconds since the epoch), by the
        card in force of the family that its grant names ('': published); a card of the tenant's own comes first.

        A model without a price is not sold: raises `Fault("model_not_found")`. Another family is no substitute: it
        would be another contract's price.
        """
        for card in self.rate_cards.get(model, ()):
            if card.family == (family or PUBLISHED) and card.tenant_id in (None, tenant_id) and card.covers(at):
                return priced_at(card, at, action)
        raise Fault(
            "model_not_found", param="model", internal=f"no {family or PUBLISHED} rate card for {model} at {at}"
        )

    def levels(self, tenant: Tenant, grant: Grant, access: Access, at: int) -> tuple[LimitLevel, ...]:
        """The levels that a request counts at, from wide to narrow, limited or not, with the raises in force at `at`
        (microseconds since the epoch)."""
        levels = self.plain_levels(tenant, grant, access)
        raises = self.raises.get(tenant.tenant_id)
        if raises is None:
            return levels
        return tuple(level.raised(raises.get(level.name or "tenant", ()), at) for level in levels)

    def plain_levels(self, tenant: Tenant, grant: Grant, access: Access) -> tuple[LimitLevel, ...]:
        """The levels without raises."""
        wide = (
            LimitLevel("tenant", tenant.tenant_id, tenant.limits),
            LimitLevel("licence", grant.rule_id, grant.limits),
        )
        narrow = LimitLevel("key", access.credential_id, access.limits)
        if not access.project_id:
            return (*wide, narrow)
        project = self.projects.get((tenant.tenant_id, access.project_id), UNBOUNDED)
        return (*wide, LimitLevel("project", access.project_id, project), narrow)
