"""Value types of metering: what was used, what became of an exchange, what the journal is told.

All money is integer micro-yen, all counts are tokens, all times are microseconds since the Unix epoch (UTC).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Outcome(StrEnum):
    """The one way an exchange ended. The set is closed: every exchange ends in exactly one of these."""

    COMPLETED = "completed"
    BLOCKED_INPUT = "blocked_input"
    BLOCKED_OUTPUT = "blocked_output"
    REFUSED_INVALID = "refused_invalid"
    REFUSED_AUTH = "refused_auth"
    REFUSED_LICENCE = "refused_licence"
    REFUSED_QUOTA = "refused_quota"
    REFUSED_RATE = "refused_rate"
    REFUSED_CAPACITY = "refused_capacity"
    CANCELLED_QUEUED = "cancelled_queued"
    REVOKED = "revoked"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    CLIENT_GONE = "client_gone"
    INTERNAL = "internal"


UsageSource = Literal["engine", "witness", "checkpoint", "none"]
"""Who counted: the engine in its answer, the engine's own record, the last checkpoint, or nobody."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one exchange as the engine counted them. `cached`, `image` and `audio` are parts of `prompt`,
    `reasoning` of `completion`."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    image: int = 0
    audio: int = 0

    @property
    def consistent(self) -> bool:
        """Whether no part is larger than its whole."""
        return (
            0 <= self.cached <= self.prompt
            and 0 <= self.reasoning <= self.completion
            and min(self.image, self.audio) >= 0
            and self.image + self.audio <= self.prompt
        )

    @property
    def total(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class OpenRow:
    """What the journal knows of an exchange when it is dispatched: who, what, under which rule, and what was held."""

    request_id: str
    tenant_id: str
    key_id: str
    project_id: str
    model: str
    model_version: str
    action: str
    purpose: str
    data_class: str
    country: str
    region: str
    tier: str
    site: str
    upstream_id: str
    rule_id: str
    licence_id: str
    licence_version: int
    epoch: int
    rate_card_id: str
    instance_id: str
    period: str
    stream: bool
    held_tokens: int
    held_micro_yen: int
    opened_at: int


@dataclass(frozen=True, slots=True)
class Line:
    """One priced quantity. `amount` is `quantity × unit_price` in micro-yen; `unit_price` is yen per 1M tokens,
    which is the same number as micro-yen per token."""

    kind: str
    quantity: int
    unit_price: int

    @property
    def amount(self) -> int:
        """Micro-yen."""
        return self.quantity * self.unit_price


@dataclass(frozen=True, slots=True)
class Settlement:
    """The final word on an exchange that has an `open` row: state, outcome, counts, price lines, audit record.

    `only_if` names the state in which the row was judged, where that was done from outside: it is settled only if it
    still is in that state. Empty for the process that owns the row and knows."""

    request_id: str
    tenant_id: str
    state: Literal["settled", "recovered", "voided"]
    outcome: Outcome
    code: str
    http_status: int
    finish_reason: str
    attempt: int
    usage: Usage
    source: UsageSource
    lines: tuple[Line, ...]
    first_byte_at: int | None
    settled_at: int
    audit_record: str
    only_if: str = ""

    @property
    def micro_yen(self) -> int:
        """The whole charge in micro-yen."""
        return sum(line.amount for line in self.lines)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An authenticated request that was refused before dispatch, or whose `open` row never came: a `voided` row of its
    own, charged with nothing. Places are those of the upstream that came closest, '' where none was looked at."""

    request_id: str
    tenant_id: str
    key_id: str
    project_id: str
    model: str
    model_version: str
    action: str
    purpose: str
    data_class: str
    country: str
    region: str
    tier: str
    site: str
    outcome: Outcome
    code: str
    http_status: int
    rule_id: str
    licence_id: str
    licence_version: int
    epoch: int
    instance_id: str
    opened_at: int
    audit_record: str
