"""A second opinion on every licence decision: Cedar policies written from the documents themselves.

Nothing of the gateway's compilation is used: patterns become `like`, version ranges become comparisons of numbers,
times become Cedar datetimes, registers and prohibitions become `forbid`, and a child is permitted only while each of
its ancestors is. The two must agree on permission and on the clause that decides.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import cedarpy

from gateway.licensing.decide import Ask, Decision, LicenceIndex, decide
from gateway.licensing.registers import REGISTERS
from tests.gateway.licensing.worlds import Document, World, random_ask, random_world

_NO_ENTITIES = cedarpy.Entities.from_json_str("[]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ASKS_PER_WORLD = 100


@dataclass(frozen=True, slots=True)
class Opinion:
    """Cedar's answer: the rules that permit or forbid, in the order of licence id and document, and whether the
    question states nothing that the registers do not know."""

    allowed: bool
    rules: tuple[str, ...]
    known: bool


@dataclass(slots=True)
class Comparison:
    """What was compared so far; `disagreements` holds the first few, in words."""

    cases: int = 0
    allowed: int = 0
    disagreements: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, decision: Decision, opinion: Opinion, case: object) -> None:
        """Count one case."""
        self.cases += 1
        self.allowed += decision.allowed
        self.refusals[decision.refusal] += 1
        problem = disagreement(decision, opinion)
        if problem:
            self.disagreements += 1
            if len(self.examples) < 5:
                self.examples.append(f"{problem}: {case}")


class Oracle:
    """The policies of one world."""

    def __init__(self, world: World) -> None:
        self._rules: list[str] = []
        policies = [*_guards(world.catalogue)]
        self._guards = len(policies)
        newest = dict(sorted(world.newest().items()))
        for licence_id, document in newest.items():
            in_force = _in_force(licence_id, newest, world)
            if in_force is None:
                continue
            for effect, rule_id, condition in _clauses(document):
                who = f"principal == Tenant::{_text(document['licensee']['tenant'])}"
                policies.append(f"{effect} ({who}, action, resource) when {{ {in_force} && {condition} }};")
                self._rules.append(rule_id)
        self._policies = cedarpy.PolicySet.from_str("\n".join(policies))

    def answer(self, questions: Sequence[tuple[Ask, int]]) -> list[Opinion]:
        """Cedar's opinions, in order. Raises `AssertionError` if a policy could not be evaluated."""
        requests = [_request(ask, now) for ask, now in questions]
        return [self._opinion(result) for result in cedarpy.is_authorized_batch(requests, self._policies, _NO_ENTITIES)]

    def _opinion(self, result: cedarpy.AuthzResult) -> Opinion:
        assert not result.diagnostics.errors, result.diagnostics.errors
        numbers = sorted(int(reason.removeprefix("policy")) for reason in result.diagnostics.reasons)
        rules = tuple(self._rules[number - self._guards] for number in numbers if number >= self._guards)
        return Opinion(result.allowed, rules, known=all(number == 0 or number >= self._guards for number in numbers))


def disagreement(decision: Decision, opinion: Opinion) -> str:
    """How the two differ; '' when they agree."""
    if decision.allowed != opinion.allowed:
        return f"decided {decision.refusal or 'allowed'} by {decision.rule_id!r}, Cedar says {opinion}"
    if not opinion.known:
        return ""  # what a document says of an unknown code counts for nothing, and Cedar does not know that
    if decision.allowed or decision.refusal == "prohibited":
        return "" if opinion.rules[:1] == (decision.rule_id,) else f"named {decision.rule_id!r}, Cedar says {opinion}"
    if opinion.rules and decision.refusal != "no_grant":
        return f"decided {decision.refusal}, Cedar says that {opinion.rules[0]} forbids it"
    return ""


def compare(seed: int, cases: int, changed: Callable[[LicenceIndex], LicenceIndex] = lambda index: index) -> Comparison:
    """`cases` random cases, the same ones for the same seed. `changed` may spoil the index, to see that it is found."""
    rng = random.Random(seed)
    comparison = Comparison()
    while comparison.cases < cases:
        world = random_world(rng)
        questions = [random_ask(rng, world) for _ in range(min(ASKS_PER_WORLD, cases - comparison.cases))]
        compare_in(world, changed(world.index()), questions, comparison)
    return comparison


def compare_in(world: World, index: LicenceIndex, questions: Sequence[tuple[Ask, int]], comparison: Comparison) -> None:
    """Ask both about one world."""
    for (ask, now), opinion in zip(questions, Oracle(world).answer(questions), strict=True):
        comparison.add(decide(index, ask, now), opinion, (ask, now, world))


def _guards(catalogue: Mapping[str, frozenset[str]]) -> Iterator[str]:
    """What holds for every tenant: secret data stays at home; only what the registers know, and what is served."""
    yield 'forbid (principal, action, resource) when { context.data_class == "secret" && !context.own_site };'
    for fact, codes in (
        ("action", REGISTERS.actions), ("purpose", REGISTERS.purposes), ("data_class", REGISTERS.data_classes),
        ("region", REGISTERS.regions), ("tier", REGISTERS.tiers),
        ("release", {f"{model}@{version}" for model, versions in catalogue.items() for version in versions}),
    ):  # fmt: skip
        yield f"forbid (principal, action, resource) unless {{ {_one_of(fact, sorted(codes))} }};"


def _in_force(licence_id: str, newest: dict[str, Document], world: World) -> str | None:
    """The condition on time of a licence and all that it is cut from; None when one of them is no more."""
    document = newest.get(licence_id)
    if document is None or licence_id in world.revoked or licence_id in world.beyond:
        return None
    validity = document["validity"]
    own = (
        f"context.now >= {_moment(validity['not_before'])} && "
        f'context.now < {_moment(validity["not_after"])}.offset(duration("{validity.get("grace_days", 0)}d"))'
    )
    if "parent" not in document:
        return own
    above = _in_force(document["parent"]["licence_id"], newest, world)
    return None if above is None else f"{own} && {above}"


def _clauses(document: Document) -> Iterator[tuple[str, str, str]]:
    """(effect, rule id, condition) of each clause."""
    countries = _one_of("country", document["personal_data"]["processing_countries"])
    for grant in document["grants"]:
        adapter = f'(context.adapter == "" || {_meant("adapter", grant["adapters"])})'
        yield "permit", f"{document['licence_id']}/{grant['id']}", " && ".join((_facts(grant), countries, adapter))
    for prohibition in document["prohibitions"]:
        yield "forbid", f"{document['licence_id']}/{prohibition['id']}", _facts(prohibition["match"])


def _facts(clause: Document) -> str:
    conditions = [
        _meant(fact, clause[name])
        for fact, name in (
            ("action", "actions"), ("purpose", "purposes"), ("data_class", "data_classes"), ("region", "regions"),
            ("tier", "tiers"),
        )
        if name in clause
    ]  # fmt: skip
    if "models" in clause:
        conditions.append(f"({' || '.join(map(_pattern, clause['models']))})")
    return " && ".join(conditions)


def _meant(fact: str, codes: Sequence[str]) -> str:
    return "true" if list(codes) == ["*"] else _one_of(fact, codes)


def _one_of(fact: str, codes: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, codes))}].contains(context.{fact})"


def _pattern(pattern: str) -> str:
    name, _, versions = pattern.partition("@")
    conditions = [f"context.model like {_text(name.strip())}"]
    conditions += [_range(specifier.strip()) for specifier in versions.split(",") if versions]
    return f"({' && '.join(conditions)})"


def _range(specifier: str) -> str:
    """A PEP 440 specifier on release numbers, as a comparison of whole numbers."""
    operator, number = re.fullmatch(r"([<>=!~]=?)(.+)", specifier).groups()  # type: ignore[union-attr]
    parts = [int(part) for part in number.removesuffix(".*").split(".")]
    value, within = _number(parts), "context.version >= {} && context.version < {}"
    if number.endswith(".*"):
        inside = within.format(value, _number([*parts[:-1], parts[-1] + 1]))
        return f"({inside})" if operator == "==" else f"!({inside})"
    if operator == "~=":
        return f"({within.format(value, _number([*parts[:-2], parts[-2] + 1]))})"
    return f"context.version {operator} {value}"


def _number(parts: Sequence[int]) -> int:
    """A release number as one whole number that sorts like it."""
    padded = [*parts, 0, 0, 0, 0][:4]
    return sum(part * 10 ** (4 * (3 - place)) for place, part in enumerate(padded))


def _moment(rfc3339: str) -> str:
    offset_without_colon = re.sub(r"([+-][0-9]{2}):([0-9]{2})$", r"\1\2", rfc3339)
    return f"datetime({_text(offset_without_colon)})"


def _text(value: str) -> str:
    return json.dumps(value)


def _request(ask: Ask, now: int) -> dict[str, object]:
    # Cedar counts milliseconds: the documents' moments are whole ones, so rounding down loses no comparison.
    at = (_EPOCH + timedelta(milliseconds=now // 1000)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return {
        "principal": {"type": "Tenant", "id": ask.tenant_id},
        "action": {"type": "Action", "id": "use"},
        "resource": {"type": "Place", "id": "any"},
        "context": {
            "model": ask.model, "version": _number([int(part) for part in ask.model_version.split(".")]),
            "release": f"{ask.model}@{ask.model_version}", "action": ask.action, "purpose": ask.purpose,
            "data_class": ask.data_class, "country": ask.country, "region": ask.region, "tier": ask.tier,
            "adapter": ask.adapter, "own_site": ask.own_site, "now": {"__extn": {"fn": "datetime", "arg": at}},
        },
    }  # fmt: skip
