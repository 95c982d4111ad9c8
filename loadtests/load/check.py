"""All books of a run against the engine's record: the journal, what `GET /v1/usage` shows, what clients were told."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loadtests.books import Comparison, Entry, compare
from loadtests.load.plan import Sample
from serving.scripted.record import Witness

Account = tuple[str, str]
"""A tenant and a model."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Requests that an engine served, with their prompt and completion tokens."""

    requests: int = 0
    prompt: int = 0
    completion: int = 0

    def plus(self, prompt: int, completion: int) -> "Tokens":
        """With one more request."""
        return Tokens(self.requests + 1, self.prompt + prompt, self.completion + completion)


@dataclass(frozen=True, slots=True)
class Audit:
    """What the comparison found. The totals per tenant and model are those of the engine's record; a request belongs
    to the tenant whose client got the answer, so that booking to somebody else cannot go unseen."""

    comparison: Comparison
    totals: Mapping[Account, Tokens]
    findings: tuple[str, ...]


def audit(
    entries: Sequence[Entry],
    witnesses: Sequence[Witness],
    samples: Sequence[Sample],
    shown: Mapping[Account, Tokens],
) -> Audit:
    """Compare everything with everything. `samples` are the gateway's; `shown` is what each tenant sees of itself, and
    names the tenants of the run."""
    comparison = compare(entries, witnesses)
    tenants = {tenant for tenant, _ in shown}
    answered = {sample.request_id: sample for sample in samples if _served(sample)}
    totals = _recorded_totals(witnesses, answered)
    booked = _booked_totals(entry for entry in entries if entry.tenant_id in tenants)
    findings = [
        *comparison.findings,
        *_told_otherwise(entries, answered),
        *(
            f"{entry.attempt_id} of {entry.tenant_id} is booked, and no client has its answer"
            for entry in entries
            if entry.tenant_id in tenants and entry.state != "voided" and entry.request_id not in answered
        ),
        *_totals_differ("the journal", booked, totals),
        *_totals_differ("GET /v1/usage", shown, totals),
    ]
    return Audit(comparison, totals, tuple(findings))


def _served(sample: Sample) -> bool:
    return bool(sample.model) and not sample.refused and not sample.failure


def _recorded_totals(witnesses: Iterable[Witness], answered: Mapping[str, Sample]) -> dict[Account, Tokens]:
    totals: dict[Account, Tokens] = defaultdict(Tokens)
    for witness in witnesses:
        sample = answered.get(witness.attempt_id.rpartition("-")[0])
        if sample is not None:
            account = (sample.tenant_id, witness.model)
            totals[account] = totals[account].plus(witness.prompt_tokens, witness.completion_tokens)
    return dict(totals)


def _booked_totals(entries: Iterable[Entry]) -> dict[Account, Tokens]:
    totals: dict[Account, Tokens] = defaultdict(Tokens)
    for entry in entries:
        if entry.state != "voided":
            account = (entry.tenant_id, entry.model)
            totals[account] = totals[account].plus(entry.prompt_tokens, entry.completion_tokens)
    return dict(totals)


def _told_otherwise(entries: Iterable[Entry], answered: Mapping[str, Sample]) -> list[str]:
    """Answers without a row, booked to another tenant or model, or with other usage than the client was told."""
    rows = {entry.request_id: entry for entry in entries}
    findings = []
    for request_id, sample in answered.items():
        entry = rows.get(request_id)
        if entry is None:
            findings.append(f"{sample.tenant_id} has an answer {request_id!r} that the journal does not know")
            continue
        if (entry.tenant_id, entry.model) != (sample.tenant_id, sample.model):
            whose = f"{sample.tenant_id} asked {sample.model}"
            findings.append(f"{request_id}: {whose}, booked to {entry.tenant_id} for {entry.model}")
        told, counted = (
            (sample.prompt_tokens, sample.completion_tokens),
            (entry.prompt_tokens, entry.completion_tokens),
        )
        if None not in told and told != counted:
            findings.append(f"{request_id}: the client was told {told} tokens, booked are {counted}")
    return findings


def _totals_differ(name: str, found: Mapping[Account, Tokens], recorded: Mapping[Account, Tokens]) -> list[str]:
    return [
        f"{tenant}, {model}: {name} has {found.get((tenant, model), Tokens())}, "
        f"the engine's record {recorded.get((tenant, model), Tokens())}"
        for tenant, model in sorted({*found, *recorded})
        if found.get((tenant, model), Tokens()) != recorded.get((tenant, model), Tokens())
    ]
