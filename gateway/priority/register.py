"""What priority is judged by: contributions, the lineage of model versions, dated policies, windows of exclusivity.

Values only; times in microseconds since the epoch, shares in permille. An owner is a beneficial owner: its corporate
number (hojin_bangou), or `tenant:<id>` where a contract names none.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo

Group = Literal["priority", "open", "internal"]
GROUPS: tuple[Group, ...] = get_args(Group)
Origin = Literal["national_base", "derived"]

WHOLE_PERMILLE = 1000
FLOOR_PERMILLE_MIN = 300
NATIONAL_BASE: Origin = "national_base"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Contributions and contracts of this house are dated in Japan.
_ZONE = ZoneInfo("Asia/Tokyo")
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Contribution:
    """Data that `owner` has contributed under a data contract. Nothing follows from it once it is withdrawn."""

    contribution_id: str
    owner: str
    contributed_at: int
    withdrawn_at: int | None = None

    def counts(self, at: int) -> bool:
        """Whether priority may follow from it at `at`."""
        return self.withdrawn_at is None or at < self.withdrawn_at


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a model version comes from: the ids of the contributions that it derives from."""

    model: str
    model_version: str
    origin: Origin = "derived"
    contributions: tuple[str, ...] = ()

    @property
    def release(self) -> str:
        """`<model>@<version>`."""
        return f"{self.model}@{self.model_version}"


@dataclass(frozen=True, slots=True)
class Policy:
    """The terms of priority from `effective_from` on: the same text for all (R6).

    `floors` are shares of each pool's service that a group gets at least, `weights` the highest weight that an owner
    may have within a group. A later policy begins `notice_days` after it was signed in, or later (R4).
    """

    version: int
    effective_from: int
    floors: Mapping[Group, int] = field(default_factory=lambda: {"open": FLOOR_PERMILLE_MIN})
    weights: Mapping[Group, int] = field(default_factory=lambda: {"priority": 100, "open": 1, "internal": 1})
    exclusivity_months_max: int = 12
    discount_permille_max: int = 200
    notice_days: int = 30

    def floor(self, group: Group) -> int:
        """The group's share in permille."""
        return self.floors.get(group, 0)


BUILT_IN = Policy(0, 0)
"""In force until a signed policy is."""


@dataclass(frozen=True, slots=True)
class Window:
    """An exclusivity (R2): from `since` up to `until` only `owners` are served by `release`, the holder and whoever
    else has contributed to it. It ends by the clock."""

    release: str
    holder: str
    owners: frozenset[str]
    since: int
    until: int

    def runs(self, at: int) -> bool:
        """Whether it is in force at `at`."""
        return self.since <= at < self.until


@dataclass(frozen=True, slots=True)
class Register:
    """All contributions by id, lineages by (model, version), and policies in the order in which they begin."""

    contributions: Mapping[str, Contribution] = field(default_factory=dict)
    lineages: Mapping[tuple[str, str], Lineage] = field(default_factory=dict)
    policies: tuple[Policy, ...] = ()

    def policy_at(self, at: int) -> Policy:
        """The policy in force at `at`. Of two that begin together the later version counts."""
        place = bisect_right(self.policies, at, key=lambda policy: policy.effective_from)
        return self.policies[place - 1] if place else BUILT_IN

    def from_owner(self, lineage: Lineage, owner: str, at: int) -> tuple[str, ...]:
        """The contributions of `owner` in a lineage that count at `at`."""
        return tuple(
            name
            for name in lineage.contributions
            if (found := self.contributions.get(name)) is not None and found.owner == owner and found.counts(at)
        )

    def versions(self, model: str) -> list[Lineage]:
        """The registered versions of a model."""
        return [lineage for lineage in self.lineages.values() if lineage.model == model]


def exclusive_until(contribution: Contribution, policy: Policy) -> int:
    """The latest end of an exclusivity that rests on the contribution: its date and the policy's months, in Japan, or
    its withdrawal."""
    latest = months_after(contribution.contributed_at, policy.exclusivity_months_max)
    return latest if contribution.withdrawn_at is None else min(latest, contribution.withdrawn_at)


def months_after(at: int, months: int) -> int:
    """The same day and time `months` later on the calendar of Japan; the last day of a month that has no such day."""
    local = (_EPOCH + timedelta(microseconds=at)).astimezone(_ZONE)
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    day = min(local.day, _days_in(year, month + 1))
    return (local.replace(year=year, month=month + 1, day=day) - _EPOCH) // _MICROSECOND


def _days_in(year: int, month: int) -> int:
    following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return (following - timedelta(days=1)).day
