"""What must hold after any death, checked on plain values: what clients saw, the journal, the engine's record, Valkey.

The rules, and the one instant that cannot be decided:

- A client got the first byte (the status line 200): exactly one row, settled or recovered.
- It did not: charged to nobody. Between the durable word that an answer is about to leave (its mark) and the first
  byte in the kernel's hands lies an instant in which a dead process leaves the same traces as one that died right after
  the byte. Writing the word after the byte would lose delivered answers, so the word comes first and such a request
  counts as delivered: the engine did the work, and the byte may be out. It is `ambiguous` here, and only within
  `AMBIGUOUS_S` before the death of the very process that served it, or before the death of PostgreSQL, whose answer
  the process then waited for until it died itself. A client that leaves a whole answer in that instant does not see the
  byte either.
- The engine has a record: its counts, to the token. Only where the engine died while the gateway lived, in the middle
  of a stream or before it could say what a client who left had used, the last usage received is what counts; it may
  stay below a record written right before the death, and the rest is the platform's. (Such a usage does not know yet
  how much of the prompt was cached: `cached_unknown_tokens`.)
- The engine has none, because it died: the last usage received, or, when the gateway died too, the last checkpoint
  (`uncertain_tokens`), or nothing.
- Money: counts times the rate card; debit = credit = the row's amount; one audit record per row.
- Valkey: no hold, nothing held, used = the sum of the journal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from billing.rating import RateCard, rate
from billing.types import Usage
from tests.kill.clients import Seen

AMBIGUOUS_S = 1.0
LEFT_S = 0.3
LAST_RECEIVED = ("upstream_failed", "client_gone")
FINAL = ("settled", "recovered", "voided")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the journal with what belongs to it: ledger sums in micro-yen, number of audit records. Times in unix
    seconds, None where there is none."""

    request_id: str
    tenant_id: str
    model: str
    instance_id: str
    period: str
    state: str
    outcome: str
    source: str
    attempt: int
    usage: Usage
    micro_yen: int
    debit: int
    credit: int
    audits: int
    opened_at: float
    first_byte_at: float | None
    settled_at: float | None


@dataclass(frozen=True, slots=True)
class Counters:
    """Valkey's counters of one level of a tenant in one period."""

    used_tokens: int = 0
    used_micro_yen: int = 0
    held_tokens: int = 0
    held_micro_yen: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything there is to know. `records` by attempt id; `gateway_deaths` by instance id, `engine_deaths` a list, in
    unix seconds; `counters` by tenant, level within it ('' is the tenant's own) and period."""

    seen: Sequence[Seen]
    rows: Mapping[str, Row]
    records: Mapping[str, Usage]
    cards: Mapping[str, RateCard]
    counters: Mapping[tuple[str, str, str], Counters]
    holds: Sequence[str]
    buried: int
    gateway_deaths: Mapping[str, float]
    engine_deaths: Sequence[float]
    postgresql_deaths: Sequence[float] = ()


@dataclass
class Findings:
    """What is wrong (each a list of sentences, empty when all is well), and what is only counted."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    charged_undelivered: list[str] = field(default_factory=list)
    negative_balances: list[str] = field(default_factory=list)
    holds_left: list[str] = field(default_factory=list)
    ambiguous: set[str] = field(default_factory=set)
    uncertain_tokens: int = 0
    uncounted: int = 0
    below_record_tokens: int = 0
    cached_unknown_tokens: int = 0

    @property
    def wrong(self) -> dict[str, list[str]]:
        """Only what must be empty."""
        names = ("lost", "doubled", "mismatched", "charged_undelivered", "negative_balances", "holds_left")
        return {name: getattr(self, name) for name in names}


def check(facts: Facts) -> Findings:
    """All rules of this module."""
    found = Findings()
    delivered = _delivered(facts, found)
    for row in facts.rows.values():
        if row.state not in FINAL:
            found.lost.append(f"{row.request_id} is still {row.state}")
            continue
        _charged(row, row.request_id in delivered, facts, found)
        _booked(row, facts, found)
        if row.state != "voided":
            _counted(row, facts, found)
    _counters(facts, found)
    if facts.buried:
        found.lost.append(f"{facts.buried} settlements were refused by the database")
    return found


def _delivered(facts: Facts, found: Findings) -> set[str]:
    """The ids whose first byte arrived."""
    ids: set[str] = set()
    for call in facts.seen:
        if not call.delivered:
            continue
        if call.request_id in ids:
            found.doubled.append(f"{call.request_id} was given to two calls")
        ids.add(call.request_id)
        row = facts.rows.get(call.request_id)
        if row is None or row.state == "voided":
            found.lost.append(f"{call.request_id} was delivered and its row is {'absent' if row is None else 'voided'}")
        elif call.complete and call.usage is not None and _public(call.usage) != row.usage:
            found.mismatched.append(f"{call.request_id}: the client was told {call.usage}, booked {row.usage}")
    return ids


def _public(usage: Mapping[str, object]) -> Usage:
    def detail(group: str, name: str) -> int:
        details = usage.get(group)
        return int(details.get(name) or 0) if isinstance(details, dict) else 0

    return Usage(
        int(str(usage["prompt_tokens"])), detail("prompt_tokens_details", "cached_tokens"),
        int(str(usage["completion_tokens"])), detail("completion_tokens_details", "reasoning_tokens"),
    )  # fmt: skip


def _charged(row: Row, delivered: bool, facts: Facts, found: Findings) -> None:
    if not (row.micro_yen or row.debit or row.usage.total):
        return
    if row.state == "voided":
        found.mismatched.append(f"{row.request_id} is voided and charged {row.micro_yen}")
    if delivered:
        return
    if row.first_byte_at is not None and _undecidable(row, row.first_byte_at, facts):
        found.ambiguous.add(row.request_id)
    else:
        found.charged_undelivered.append(f"{row.request_id} ({row.state}) is charged {row.micro_yen} for nothing")


def _undecidable(row: Row, said_at: float, facts: Facts) -> bool:
    died_at = facts.gateway_deaths.get(row.instance_id)
    if died_at is not None:
        waited = any(said_at <= at <= min(died_at, said_at + AMBIGUOUS_S) for at in facts.postgresql_deaths)
        if waited or -AMBIGUOUS_S <= said_at - died_at <= 0:
            return True
    return any(
        call.left and not call.request_id and call.tenant_id == row.tenant_id and abs(call.left_at - said_at) < LEFT_S
        for call in facts.seen
    )


def _booked(row: Row, facts: Facts, found: Findings) -> None:
    if row.debit != row.credit:
        found.negative_balances.append(f"{row.request_id}: debit {row.debit}, credit {row.credit}")
    if row.debit != row.micro_yen:
        where = found.doubled if row.debit > row.micro_yen else found.lost
        where.append(f"{row.request_id}: ledger {row.debit}, journal {row.micro_yen}")
    if row.audits != 1:
        (found.doubled if row.audits else found.lost).append(f"{row.request_id} has {row.audits} audit records")
    card = facts.cards.get(row.model)
    price = 0 if card is None else sum(line.amount for line in rate(row.usage, card))
    if price != row.micro_yen:
        found.mismatched.append(f"{row.request_id}: {row.usage} costs {price}, booked {row.micro_yen}")


def _counted(row: Row, facts: Facts, found: Findings) -> None:
    record = facts.records.get(f"{row.request_id}-{row.attempt}")
    if record == row.usage:
        return
    engine_died = any(row.opened_at <= at <= (row.settled_at or 0) for at in facts.engine_deaths)
    if not engine_died:
        what = "is in no record" if record is None else f"is recorded as {record}"
        found.mismatched.append(f"{row.request_id} ({row.state}, {row.outcome}, {row.source}): {row.usage} {what}")
    elif row.source == "engine" and row.outcome in LAST_RECEIVED and (record is None or _within(row.usage, record)):
        if record is not None:
            found.below_record_tokens += record.total - row.usage.total
            found.cached_unknown_tokens += record.cached - row.usage.cached
    elif record is None and row.source == "checkpoint":
        found.uncertain_tokens += row.usage.total
    elif record is None and row.source == "none" and row.usage.total == 0:
        found.uncounted += 1
    else:
        found.mismatched.append(f"{row.request_id} ({row.state}, {row.outcome}) claims {row.source}, recorded {record}")


def _within(usage: Usage, record: Usage) -> bool:
    return usage.prompt == record.prompt and (
        usage.cached <= record.cached and usage.completion <= record.completion and usage.reasoning <= record.reasoning
    )


def _counters(facts: Facts, found: Findings) -> None:
    found.holds_left += [f"hold of {request_id}" for request_id in facts.holds]
    booked: dict[tuple[str, str], tuple[int, int]] = {}
    for row in facts.rows.values():
        tokens, micro_yen = booked.get((row.tenant_id, row.period), (0, 0))
        if row.period:
            booked[row.tenant_id, row.period] = (tokens + row.usage.total, micro_yen + row.micro_yen)
    # A tenant of the harness has one licence and one key, so every level counts the same.
    for key in {*((tenant_id, "", period) for tenant_id, period in booked), *facts.counters}:
        one, used = facts.counters.get(key, Counters()), booked.get((key[0], key[2]), (0, 0))
        if min(one.used_tokens, one.used_micro_yen, one.held_tokens, one.held_micro_yen) < 0:
            found.negative_balances.append(f"{key}: {one}")
        elif one.held_tokens or one.held_micro_yen:
            found.holds_left.append(f"{key}: {one}")
        if (one.used_tokens, one.used_micro_yen) != used:
            found.mismatched.append(f"{key}: Valkey says {one}, the journal {used}")
