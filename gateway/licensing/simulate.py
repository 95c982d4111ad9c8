"""Recorded decisions replayed against other licences: what would be decided otherwise. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.faults import Language
from gateway.licensing.decide import Ask, LicenceIndex, Refusal, decide

Kind = Literal["lost", "gained", "other_refusal", "other_rule"]
_KINDS: tuple[Kind, ...] = ("lost", "gained", "other_refusal", "other_rule")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided: a refusal, or '' for permission, and the rule that decided ('' where there was none)."""

    refusal: Refusal
    rule_id: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """`n` equal questions, the last of them at `at` (microseconds since the epoch), and what the licences said then.

    What was refused for another reason than the licence, was permitted by it.
    """

    ask: Ask
    at: int
    verdict: Verdict
    n: int = 1


@dataclass(frozen=True, slots=True)
class Change:
    """`n` recorded questions that would be decided otherwise."""

    ask: Ask
    before: Verdict
    after: Verdict
    n: int

    @property
    def kind(self) -> Kind:
        """Permission lost or gained, refused otherwise, or permitted by another rule (with its own quota and price)."""
        if self.before.refusal == self.after.refusal == "":
            return "other_rule"
        if self.before.refusal == "":
            return "lost"
        return "gained" if self.after.refusal == "" else "other_refusal"


def simulate(recorded: Iterable[Recorded], index: LicenceIndex, at: int | None = None) -> list[Change]:
    """The questions that `index` decides otherwise, equal ones as one: lost permissions first, then by number.

    Each is asked at its own time, or all at `at` (microseconds since the epoch): a licence that begins tomorrow permits
    nothing of yesterday.
    """
    counts: dict[tuple[Ask, Verdict, Verdict], int] = {}
    for one in recorded:
        decision = decide(index, one.ask, one.at if at is None else at)
        after = Verdict(decision.refusal, decision.rule_id)
        if after != one.verdict:
            key = (one.ask, one.verdict, after)
            counts[key] = counts.get(key, 0) + one.n
    changes = [Change(ask, before, after, n) for (ask, before, after), n in counts.items()]
    return sorted(changes, key=_rank)


def _rank(change: Change) -> tuple[object, ...]:
    ask = change.ask
    return _KINDS.index(change.kind), -change.n, ask.tenant_id, ask.model, ask.model_version, ask.action, ask.purpose


_HEAD = {
    "en": "{changed} of {replayed} recorded decisions would change: {lost} permissions lost, {gained} gained,"
    " {other_refusal} refused otherwise, {other_rule} permitted by another rule.",
    "ja": "記録された判定{replayed}件のうち{changed}件が変わります（許可の喪失{lost}件、新たな許可{gained}件、"
    "別の理由による拒否{other_refusal}件、別の条項による許可{other_rule}件）。",
}
_LINE = {
    "en": "{n} × {tenant}: {action} {model}, purpose {purpose}, data class {data_class}, {place}: {before} → {after}",
    "ja": "{n}件 {tenant}: {action} {model}、目的 {purpose}、データ区分 {data_class}、{place}: {before} → {after}",
}
_PERMITTED = {"en": "permitted", "ja": "許可"}
_REFUSED = {"en": "refused ({code})", "ja": "拒否（{code}）"}


def render(changes: Sequence[Change], replayed: int, language: Language) -> str:
    """The changes for a person: a sum, and a line for each. `replayed` is how many decisions were asked anew."""
    counts = {kind: sum(change.n for change in changes if change.kind == kind) for kind in _KINDS}
    head = _HEAD[language].format(changed=sum(counts.values()), replayed=replayed, **counts)
    return "\n".join([head, *(_line(change, language) for change in changes)])


def _line(change: Change, language: Language) -> str:
    ask = change.ask
    place = "/".join((ask.country, ask.region, ask.tier))
    model = f"{ask.model}@{ask.model_version}" + (f" + {ask.adapter}" if ask.adapter else "")
    return _LINE[language].format(
        n=change.n, tenant=ask.tenant_id, action=ask.action, model=model, purpose=ask.purpose,
        data_class=ask.data_class, place=place,
        before=_verdict(change.before, language), after=_verdict(change.after, language),
    )  # fmt: skip


def _verdict(verdict: Verdict, language: Language) -> str:
    permitted = verdict.refusal == ""
    text = _PERMITTED[language] if permitted else _REFUSED[language].format(code=verdict.refusal)
    return f"{text} {verdict.rule_id}".rstrip()
