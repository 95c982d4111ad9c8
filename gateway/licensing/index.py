"""The compiled licences of a tenant, as values: sets of numbered clauses, held as the bits of integers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.limits.levels import UNBOUNDED, Limits


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant of one licence. `rule_id` is `<licence id>/<clause id>`.

    Times in microseconds since the epoch: in force from `not_before` (inclusive) to `not_after` (exclusive), then in
    grace to `grace_until` (exclusive). `owner` is the beneficial owner (gateway/priority/register.py), `contributions`
    are those that the licence names.
    """

    rule_id: str
    licence_id: str
    licence_version: int
    not_before: int
    not_after: int
    grace_until: int
    limits: Limits = UNBOUNDED
    priority_class: str = "public"
    weight: int = 1
    rate_card: str = ""
    zero_retention: bool = False
    owner: str = ""
    licensee_class: str = "public"
    contributions: frozenset[str] = frozenset()

    @property
    def licence(self) -> str:
        """`<id>@<version>`, as responses name it."""
        return f"{self.licence_id}@{self.licence_version}"


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which clauses are in force, and which will be, between any two of the moments when that changes.

    `bounds` ascend (microseconds); `in_force[n]` and `to_come[n]` hold from `bounds[n - 1]` up to `bounds[n]`, as bits.
    """

    bounds: Sequence[int]
    in_force: tuple[int, ...]
    to_come: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Closing:
    """From `since` up to `until` (microseconds since the epoch) an exclusivity of another owner closes the grants
    `bits`."""

    since: int
    until: int
    bits: int


ACTION, PURPOSE, DATA_CLASS, REGION, TIER = range(5)
"""Where `TenantIndex.covering` has the bits for a code that its register does not list."""


@dataclass(frozen=True, slots=True)
class Places:
    """Code of a register → where `TenantIndex.covering` has its bits. One value for all tenants: a decision finds it in
    the processor's cache, and of the tenant's own it reads little."""

    actions: Mapping[str, int]
    purposes: Mapping[str, int]
    data_classes: Mapping[str, int]
    regions: Mapping[str, int]
    tiers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TenantIndex:
    """A tenant's compiled licences. Grants have the lower numbers, prohibitions the higher ones: one intersection finds
    both, and is larger than `granting`, the bits of all grants, exactly when a prohibition is in it.

    `clauses` are (rule id, licence) by number. `models` has the grants of each granted model, in whatever version;
    `releases` has, for those models only, the clauses of every `<model>@<version>`. `any_adapter` are the clauses that
    cover every adapter, and `revoked` the grants that are no longer, whatever the time. `closed` has the exclusivities
    of others by `<model>@<version>`.
    """

    grants: tuple[Grant, ...]
    clauses: tuple[tuple[str, str], ...]
    granting: int
    models: Mapping[str, int]
    releases: Mapping[str, int]
    places: Places
    covering: tuple[int, ...]
    countries: Mapping[str, int]
    adapters: Mapping[str, int]
    any_adapter: int
    times: Timeline
    revoked: int
    closed: Mapping[str, tuple[Closing, ...]] = field(default_factory=dict)


LicenceIndex = Mapping[str, TenantIndex]
"""tenant → its compiled licences. Swapped as a whole, never changed in place."""
