"""The standing of a tenant by the compiled licences: what all contracts of its owner say of a model version. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.licensing.index import Grant, LicenceIndex, TenantIndex
from gateway.priority.register import Lineage, Register, Window
from gateway.priority.rules import Claim, Standing, standing


@dataclass(frozen=True, slots=True)
class Priorities:
    """What standings are judged by besides licences. `tenants` are those of each
    owner, `windows` all exclusivities."""

    register: Register = field(default_factory=Register)
    windows: tuple[Window, ...] = ()
    tenants: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def standing(self, licences: LicenceIndex, tenant_id: str, release: str, at: int) -> Standing | None:
        """How the tenant stands with `<model>@<version>` at `at` (microseconds since the epoch); None where no grant of
        its own that is in force covers it."""
        own = list(_claims(licences, tenant_id, release, at))
        if not own:
            return None
        owner = own[0].owner
        others = (tenant for tenant in self.tenants.get(owner, ()) if tenant != tenant_id)
        claims = [*own, *(claim for tenant in others for claim in _claims(licences, tenant, release, at))]
        model, _, version = release.rpartition("@")
        lineage = self.register.lineages.get((model, version), Lineage(model, version))
        mine = [claim for claim in claims if claim.owner == owner]
        return standing(self.register, mine, self.windows, tenant_id, lineage, at)


def _claims(licences: LicenceIndex, tenant_id: str, release: str, at: int) -> Iterator[Claim]:
    index = licences.get(tenant_id)
    if index is None:
        return
    for grant in _in_force(index, release, at):
        yield Claim(
            grant.owner, tenant_id, grant.licensee_class, grant.priority_class, grant.weight, grant.contributions
        )


def _in_force(index: TenantIndex, release: str, at: int) -> Iterable[Grant]:
    in_force = index.times.in_force[bisect_right(index.times.bounds, at)]
    bits = index.releases.get(release, 0) & in_force & index.granting
    return (grant for number, grant in enumerate(index.grants) if bits >> number & 1)
