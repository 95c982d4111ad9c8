"""Random licences: a child made by narrowing lies within its parent, one that is wider in one field does not."""

import copy
import random
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.licensing.contracts import a_child, a_document, a_grant, changed
from tests.gateway.licensing.test_subset import finding_of

Document = dict[str, Any]

CODES = {
    "actions": ["chat", "completion", "embed", "batch"],
    "purposes": ["general", "research", "development", "legal"],
    "data_classes": ["public", "restricted", "secret"],
    "regions": ["jp", "jp-east", "jp-west"],
    "tiers": ["heavy", "edge"],
    "adapters": ["a1", "a2", "a3"],
}
RANKS = ["internal", "public", "investor"]
HANDLING = ["none", "zero_retention", "entrusted"]
QUOTAS = ("rpm", "tpm", "concurrency", "tokens_month", "yen_month_hard", "yen_month_soft")


def some(draw: random.Random, items: list[str]) -> list[str]:
    return draw.sample(items, draw.randint(1, len(items)))


def a_random_parent(draw: random.Random) -> Document:
    """A parent that leaves room above it in every field, so that each can be widened."""
    grants = []
    for number in range(draw.randint(1, 3)):
        codes = {name: some(draw, values[:-1]) for name, values in CODES.items()}
        low = draw.randint(1, 5)
        grants.append(
            a_grant(
                id=f"g{number}", models=[f"fam{number}-*@>={low},<{low + 3}"], **codes,
                redistribution=False, annex3_high_risk=False, zero_retention=draw.random() < 0.5,
                quota={name: draw.randint(10, 1000) for name in QUOTAS},
                priority={"class": draw.choice(RANKS[:-1]), "weight": draw.randint(2, 100)},
                retention_days=draw.randint(1, 365),
            )
        )  # fmt: skip
    return a_document(
        grants=grants,
        **{
            "licensee.class": draw.choice(RANKS[:-1]),
            "licensee.role": "deployer",
            "validity.grace_days": draw.randint(0, 80),
            "delegation.to": [],
            "personal_data.handling_mode": draw.choice(HANDLING[:-1]),
            "ip.contributions": some(draw, ["c1", "c2", "c3"]),
        },
    )


def narrowed(draw: random.Random, parent: Document) -> Document:
    """A child that takes at most what `parent` gives, each field by chance as it is or less."""
    child = a_child(
        **{
            "licensee.class": draw.choice(RANKS[: RANKS.index(parent["licensee"]["class"]) + 1]),
            "licensee.role": "deployer",
            "validity": copy.deepcopy(parent["validity"]),
            "ip.contributions": some(draw, parent["ip"]["contributions"]),
            "personal_data.handling_mode": draw.choice(
                HANDLING[: HANDLING.index(parent["personal_data"]["handling_mode"]) + 1]
            ),
            "personal_data.processing_countries": some(draw, parent["personal_data"]["processing_countries"]),
        }
    )  # fmt: skip
    child["validity"]["grace_days"] = draw.randint(0, parent["validity"]["grace_days"])
    grants = [narrowed_grant(draw, draw.choice(parent["grants"])) for _ in range(draw.randint(1, 3))]
    child["grants"] = [{**grant, "id": f"n{number}"} for number, grant in enumerate(grants)]
    if draw.random() < 0.3:
        child["prohibitions"].append({"id": "own", "match": {"actions": ["chat"]}, "reason": "own"})
    return child


def narrowed_grant(draw: random.Random, parent: Document) -> Document:
    grant = copy.deepcopy(parent)
    [pattern] = parent["models"]
    name, _, versions = pattern.partition("@")
    low, high = (int(part.strip("<>=")) for part in versions.split(","))
    grant["models"] = draw.choice(
        [
            [pattern],
            [f"{name.replace('*', 'a*b')}@>={low},<{high}"],
            [f"{name.replace('*', '7b')}@=={low}.*", f"{name}@~={low}.1"],
            [f"{name}@>{low},!={low}.5,<={high - 1}.9"],
        ]
    )
    for field in CODES:
        grant[field] = some(draw, parent[field])
    for field in QUOTAS:
        grant["quota"][field] = draw.randint(0, parent["quota"][field])
    if draw.random() < 0.3:
        grant["priority"] = None
    else:
        rank = RANKS.index(parent["priority"]["class"])
        grant["priority"] = {
            "class": draw.choice(RANKS[: rank + 1]),
            "weight": draw.randint(1, parent["priority"]["weight"]),
        }
    grant["retention_days"] = draw.randint(0, parent["retention_days"])
    grant["zero_retention"] = parent["zero_retention"] or draw.random() < 0.5
    return grant


def parents_grant(child_grant: Document, parent: Document) -> Document:
    family = child_grant["models"][0].partition("-")[0]
    return next(grant for grant in parent["grants"] if grant["models"][0].startswith(f"{family}-"))


Widening = Callable[[Document, Document], None]


def _code(field: str) -> Widening:
    def widen(grant: Document, _: Document) -> None:
        grant[field] = [*grant[field], CODES[field][-1]]

    return widen


def _quota(field: str) -> Widening:
    def widen(grant: Document, given: Document) -> None:
        grant["quota"][field] = given["quota"][field] + 1

    return widen


GRANT_WIDENINGS: dict[str, Widening] = {
    **{field: _code(field) for field in CODES},
    **{f"quota.{field}": _quota(field) for field in QUOTAS},
    "models[0]": lambda grant, given: grant.update(models=[given["models"][0].partition(",")[0]]),
    "redistribution": lambda grant, _: grant.update(redistribution=True),
    "annex3_high_risk": lambda grant, _: grant.update(annex3_high_risk=True),
    "retention_days": lambda grant, given: grant.update(retention_days=given["retention_days"] + 1),
    "rate_card": lambda grant, _: grant.update(rate_card="mine"),
    "priority.class": lambda grant, _: grant.update(priority={"class": "investor", "weight": 1}),
    "priority.weight": lambda grant, given: grant.update(
        priority={"class": "internal", "weight": given["priority"]["weight"] + 1}
    ),
}
WHOLE_WIDENINGS: dict[str, Callable[[Document], dict[str, Any]]] = {
    "licensee.class": lambda _: {"licensee.class": "investor"},
    "licensee.role": lambda _: {"licensee.role": "downstream_provider"},
    "licensee.country": lambda _: {"licensee.country": "US"},
    "validity.not_before": lambda _: {"validity.not_before": "2026-03-01T00:00:00Z"},
    "validity.not_after": lambda _: {"validity.not_after": "2027-05-01T00:00:00Z"},
    "validity.grace_days": lambda parent: {"validity.grace_days": parent["validity"]["grace_days"] + 1},
    "validity.notice_days": lambda _: {"validity.notice_days": 31},
    "prohibitions": lambda _: {"prohibitions": []},
    "duties": lambda _: {"duties": []},
    "ip.contributions": lambda _: {"ip.contributions": ["c9"]},
    "personal_data.handling_mode": lambda _: {"personal_data.handling_mode": "entrusted"},
    "personal_data.processing_countries": lambda _: {"personal_data.processing_countries": ["US"]},
}


@settings(max_examples=2000, deadline=None)
@given(st.randoms(use_true_random=False))
def test_random_child_made_by_narrowing_is_accepted(draw: random.Random) -> None:
    parent = a_random_parent(draw)
    assert finding_of(narrowed(draw, parent), parent) == ("", "")


@settings(max_examples=2000, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([*GRANT_WIDENINGS, *WHOLE_WIDENINGS]))
def test_random_child_that_is_wider_in_one_field_is_refused_with_it(draw: random.Random, field: str) -> None:
    parent = a_random_parent(draw)
    child = narrowed(draw, parent)
    if field in WHOLE_WIDENINGS:
        assert finding_of(changed(child, WHOLE_WIDENINGS[field](parent)), parent) == ("child_wider_than_parent", field)
        return
    place = draw.randrange(len(child["grants"]))
    grant = child["grants"][place]
    GRANT_WIDENINGS[field](grant, parents_grant(grant, parent))
    code, path = finding_of(child, parent)
    assert code == "child_wider_than_parent"
    # Another of the parent's grants may be as near as the one it was cut from; then that one's excess is told.
    assert path == f"grants[{place}].{field}" or (len(parent["grants"]) > 1 and path.startswith(f"grants[{place}]."))
