"""The levels at which limits bind: tenant, licence grant, project, credential. A request must fit into all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

LevelKind = Literal["tenant", "licence", "project", "key"]
LimitName = Literal["tokens_month", "micro_yen_month", "rpm", "tpm", "concurrency"]
LIMIT_NAMES: tuple[LimitName, ...] = ("tokens_month", "micro_yen_month", "rpm", "tpm", "concurrency")


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be used per calendar month of the tenant's zone, per minute (`rpm` requests, `tpm` tokens) and at once.
    Money in micro-yen; None: not limited here."""

    tokens_month: int | None = None
    micro_yen_month: int | None = None
    rpm: int | None = None
    concurrency: int | None = None
    tpm: int | None = None

    @property
    def bounded(self) -> bool:
        """Whether anything is limited."""
        return not (self.tokens_month is self.micro_yen_month is self.rpm is self.concurrency is self.tpm is None)

    @property
    def amounts_bounded(self) -> bool:
        """Whether anything is limited that a request uses more or less of: tokens or yen."""
        return not (self.tokens_month is self.micro_yen_month is self.tpm is None)


UNBOUNDED = Limits()


@dataclass(frozen=True, slots=True)
class Raise:
    """A higher limit for a while: from `starts_at` (inclusive) to `ends_at` (exclusive), microseconds since the epoch.
    It never lowers a limit, and what is not limited stays so."""

    raise_id: str
    limit_name: LimitName
    value: int
    starts_at: int
    ends_at: int

    def in_force(self, at: int) -> bool:
        """Whether it counts at the time `at`."""
        return self.starts_at <= at < self.ends_at


def raised(limits: Limits, raises: Sequence[Raise], at: int) -> Limits:
    """The limits with the raises in force at `at`: of each the highest."""
    for one in raises:
        bound: int | None = getattr(limits, one.limit_name)
        if bound is not None and bound < one.value and one.in_force(at):
            limits = replace(limits, **{one.limit_name: one.value})
    return limits


@dataclass(frozen=True, slots=True)
class LimitLevel:
    """One level that binds a request: the tenant (`id` is the tenant's), the grant (`id` is the rule id), the project,
    or the credential."""

    kind: LevelKind
    id: str
    limits: Limits

    @property
    def name(self) -> str:
        """The level within its tenant, as the stores and the journal's sums name it (`project:alpha`); no spaces. The
        tenant's own has none."""
        return "" if self.kind == "tenant" else f"{self.kind}:{self.id}"

    def raised(self, raises: Sequence[Raise], at: int) -> "LimitLevel":
        """The level with the raises in force at `at`."""
        limits = raised(self.limits, raises, at)
        return self if limits is self.limits else LimitLevel(self.kind, self.id, limits)
