"""The levels at which limits bind: tenant, licence grant, project, credential. A request must fit into all of them."""

from dataclasses import dataclass
from typing import Literal

LevelKind = Literal["tenant", "licence", "project", "key"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be used per calendar month of the tenant's zone, per minute and at once. Money in micro-yen; None: not
    limited here."""

    tokens_month: int | None = None
    micro_yen_month: int | None = None
    rpm: int | None = None
    concurrency: int | None = None

    @property
    def bounded(self) -> bool:
        """Whether anything is limited."""
        return not (self.tokens_month is self.micro_yen_month is self.rpm is self.concurrency is None)


UNBOUNDED = Limits()


@dataclass(frozen=True, slots=True)
class LimitLevel:
    """One level that binds a request: the tenant (`id` is the tenant's), the grant (`id` is the rule id), the project,
    or the credential."""

    kind: LevelKind
    id: str
    limits: Limits

    @property
    def name(self) -> str:
        """The level within its tenant, as Valkey and the journal's sums name it (`project:alpha`); no spaces."""
        return f"{self.kind}:{self.id}"
