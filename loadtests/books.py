"""The journal against the engine's own record: the same requests with the same counts, token for token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loadtests.processes import Unmeasurable
from loadtests.stack import LocalStack
from serving.witness.types import Witness

COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_ROWS = (
    "SELECT request_id::text AS request_id, attempt, tenant_id, model, state, outcome, prompt_tokens, cached_tokens,"
    " completion_tokens, reasoning_tokens FROM journal WHERE $1::text IS NULL OR model = $1 ORDER BY request_id"
)
_FINAL = ("settled", "recovered", "voided")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the journal. `outcome` is None while the request is under way; counts are tokens."""

    request_id: str
    attempt: int
    tenant_id: str
    model: str
    state: str
    outcome: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int

    @property
    def attempt_id(self) -> str:
        """The name of the attempt that was delivered, as the engine knows it."""
        return f"{self.request_id}-{self.attempt}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came out. Tokens are prompt and completion tokens together; `differing_tokens` is a sum of distances, so
    that too much here does not make up for too little there. `findings` is one sentence per difference."""

    requests: int
    recorded_tokens: int
    booked_tokens: int
    differing_tokens: int
    findings: tuple[str, ...]


def booked(stack: LocalStack, model: str | None = None) -> list[Entry]:
    """All rows of the journal, or those of one model; refusals are among them."""
    return [Entry(**row) for row in stack.query(_ROWS, model)]


def unfinished(entries: Iterable[Entry]) -> list[Entry]:
    """Those that are not final yet."""
    return [entry for entry in entries if entry.state not in _FINAL]


def recorded(path: Path, offset: int = 0) -> list[Witness]:
    """The attempts in an engine's record file from byte `offset` on. Raises `Unmeasurable` for what is no record."""
    with path.open("rb") as file:
        file.seek(offset)
        try:
            return [msgspec.json.decode(line, type=Witness) for line in file]
        except msgspec.DecodeError as error:
            raise Unmeasurable(f"{path} is no record of an engine: {error}") from error


def compare(entries: Sequence[Entry], witnesses: Sequence[Witness]) -> Comparison:
    """Request by request, both ways.

    Exact only where nothing was aborted or tried twice: what an engine generated for nobody is in its record and in no
    tenant's row. A run without faults has no such attempt, so here each one is a difference.
    """
    findings: list[str] = []
    differing = 0
    records: dict[str, Witness] = {}
    for witness in witnesses:
        if witness.attempt_id in records:
            findings.append(f"{witness.attempt_id} ended twice in the engine's record")
            differing += _tokens(witness)
        records[witness.attempt_id] = witness
    for entry in entries:
        record = records.pop(entry.attempt_id, None)
        sentence = _difference(entry, record)
        if sentence:
            findings.append(sentence)
            differing += _distance(entry, record)
    for record in records.values():
        findings.append(f"{record.attempt_id} ({record.state}) is in the engine's record and in no row of the journal")
        differing += _tokens(record)
    return Comparison(
        requests=sum(entry.state != "voided" for entry in entries),
        recorded_tokens=sum(map(_tokens, witnesses)),
        booked_tokens=sum(map(_tokens, entries)),
        differing_tokens=differing,
        findings=tuple(findings),
    )


def _difference(entry: Entry, record: Witness | None) -> str:
    if entry.state not in _FINAL:
        return f"{entry.attempt_id} of {entry.tenant_id} is {entry.state} in the journal: never settled"
    if record is None:
        served = entry.state != "voided" or _tokens(entry) > 0
        return f"{entry.attempt_id} is {entry.state} in the journal and not in the engine's record" if served else ""
    if record.model != entry.model:
        return f"{entry.attempt_id}: the engine served {record.model}, the journal says {entry.model}"
    told = [
        f"{name} {getattr(record, name)} recorded, {getattr(entry, name)} booked"
        for name in COUNTS
        if getattr(record, name) != getattr(entry, name)
    ]
    return f"{entry.attempt_id} of {entry.tenant_id} ({entry.outcome}): {'; '.join(told)}" if told else ""


def _distance(entry: Entry, record: Witness | None) -> int:
    if record is None:
        return _tokens(entry)
    return abs(entry.prompt_tokens - record.prompt_tokens) + abs(entry.completion_tokens - record.completion_tokens)


def _tokens(counted: Entry | Witness) -> int:
    return counted.prompt_tokens + counted.completion_tokens
