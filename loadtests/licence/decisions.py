"""The cost of a decision: 1,000 tenants of 50 grants, one decision at a time; Cedar in the same run as control."""

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.licensing.compile import compile_index, compile_tenant
from gateway.licensing.decide import Ask, LicenceIndex, decide
from gateway.licensing.document import LicenceDocument, StoredLicence
from gateway.licensing.registers import REGISTERS
from tests.gateway.licensing.oracle import Oracle
from tests.gateway.licensing.worlds import Document, World, us

TENANTS, LICENCES, GRANTS_PER_LICENCE = 1_000, 5, 10
VERSIONS = frozenset({"1.0.0", "1.2.0", "2.0.0"})
NOW = us("2026-11-24T08:00:00Z")
PURPOSES, REGIONS = ("general", "research", "manufacturing", "legal"), ("jp", "jp-east", "jp-west")
CEDAR_QUESTIONS = 400
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One layout of the 50 grants. Times per decision in microseconds (medians over the rounds), compilation in seconds
    and milliseconds."""

    layout: str
    rounds: int
    decisions: int
    allowed: float
    p50_us: float
    p99_us: float
    cedar_p50_us: float
    compile_all_s: float
    compile_tenant_ms: float


def measure(layout: str, decisions: int, seed: int) -> Row:
    """`decisions` random questions in rounds. Layout `spread`: each grant is for a model of its own; `crowded`: all are
    for the same model, and most fit the question."""
    rng = random.Random(seed)
    models = [f"model-{number}" for number in range(1 if layout == "crowded" else LICENCES * GRANTS_PER_LICENCE)]
    catalogue = dict.fromkeys(models, VERSIONS)
    documents = [_document(rng, tenant, number, models) for tenant in range(TENANTS) for number in range(LICENCES)]
    stored = [StoredLicence(msgspec.convert(document, LicenceDocument), "0" * 64) for document in documents]
    started = time.perf_counter()
    index = compile_index(stored, catalogue, REGISTERS)
    compiled_s = time.perf_counter() - started
    started = time.perf_counter()
    compile_tenant(stored[:LICENCES], catalogue, REGISTERS)
    one_s = time.perf_counter() - started
    rounds = [_round(rng, index, models, decisions // ROUNDS) for _ in range(ROUNDS)]
    return Row(
        layout, ROUNDS, decisions // ROUNDS * ROUNDS, sum(allowed for _, allowed in rounds) / decisions,
        statistics.median(_percentile(times, 50) for times, _ in rounds),
        statistics.median(_percentile(times, 99) for times, _ in rounds),
        _cedar_us(index, documents[:LICENCES], catalogue, [_ask(rng, models) for _ in range(CEDAR_QUESTIONS)]),
        compiled_s, one_s * 1e3,
    )  # fmt: skip


def _round(rng: random.Random, index: LicenceIndex, models: Sequence[str], decisions: int) -> tuple[list[int], int]:
    """Nanoseconds of each decision, the clock's own included, and how many permitted. Each question is made just before
    it is asked, as the gateway does."""
    clock = time.perf_counter_ns
    times, allowed = [], 0
    for _ in range(decisions):
        ask = _ask(rng, models)
        started = clock()
        decision = decide(index, ask, NOW)
        times.append(clock() - started)
        allowed += decision.allowed
    return times, allowed


def _percentile(times: Sequence[int], percent: int) -> float:
    """In microseconds."""
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1] / 1e3


def _cedar_us(
    index: LicenceIndex, documents: Sequence[Document], catalogue: Mapping[str, frozenset[str]], asks: Sequence[Ask]
) -> float:
    """The same questions to Cedar with the policies of one tenant only, parsed beforehand; median in microseconds."""
    world = World(tuple(documents), frozenset(), frozenset(), catalogue)
    oracle = Oracle(world)
    tenant = documents[0]["licensee"]["tenant"]
    questions = [(replace(ask, tenant_id=tenant), NOW) for ask in asks]
    for (ask, now), opinion in zip(questions, oracle.answer(questions), strict=True):
        assert opinion.allowed == decide(index, ask, now).allowed, ask
    times = []
    for question in questions:
        started = time.perf_counter_ns()
        oracle.answer([question])
        times.append(time.perf_counter_ns() - started)
    return _percentile(times, 50)


def _document(rng: random.Random, tenant: int, number: int, models: Sequence[str]) -> Document:
    first = number * GRANTS_PER_LICENCE
    prohibition: Document = {"id": "p1", "match": {"purposes": ["legal"], "regions": ["jp-west"]}, "reason": "-"}
    return {
        "v": 1, "licence_id": f"lic-{tenant}-{number}", "version": 1, "issuer": "issuer",
        "licensee": {"tenant": f"tenant-{tenant}", "legal_name": "甲", "class": "public"},
        "validity": {
            "not_before": f"2026-0{number + 1}-01T00:00:00+09:00", "not_after": f"2027-0{number + 1}-01T00:00:00+09:00",
            "grace_days": 30,
        },
        "grants": [
            {
                "id": f"g{place}", "models": [f"{models[(first + place) % len(models)]} @ >=1,<3"],
                "actions": ["chat", "completion"], "purposes": rng.choice((["*"], rng.sample(PURPOSES, 2))),
                "regions": rng.choice((["*"], rng.sample(REGIONS, 2))),
                "data_classes": ["public", "restricted"], "tiers": ["heavy"], "adapters": [],
            }
            for place in range(GRANTS_PER_LICENCE)
        ],
        "prohibitions": [prohibition] if number == 0 else [],
        "personal_data": {"processing_countries": ["JP"]},
    }  # fmt: skip


def _ask(rng: random.Random, models: Sequence[str]) -> Ask:
    values: dict[str, Any] = {
        "action": "chat" if rng.random() < 0.95 else "embed", "purpose": rng.choice(PURPOSES),
        "data_class": "restricted", "region": rng.choice(REGIONS), "country": "JP" if rng.random() < 0.98 else "US",
    }  # fmt: skip
    return Ask(
        tenant_id=f"tenant-{rng.randrange(TENANTS)}", model=rng.choice(models),
        model_version=rng.choice(sorted(VERSIONS)), tier="heavy", adapter="", own_site=False, **values,
    )  # fmt: skip
