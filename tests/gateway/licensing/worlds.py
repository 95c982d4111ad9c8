"""Random licences as plain documents, and questions about them, from one `random.Random`.

A world says of every child licence whether it lies within its parent, because it was made so: nobody has to compare.
"""

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from gateway.licensing.compile import compile_index
from gateway.licensing.decide import Ask, LicenceIndex
from gateway.licensing.document import LicenceDocument, StoredLicence
from gateway.licensing.registers import REGISTERS

Document = dict[str, Any]

TENANTS = ("acme", "basho", "chiyo", "denki")
CATALOGUE: Mapping[str, frozenset[str]] = {
    "sakura-7b": frozenset({"1.0.0", "1.2.0", "2.0.0"}),
    "sakura-7b-chat": frozenset({"1.2", "1.10.0"}),
    "ume-2": frozenset({"1.1.0", "2.0.0.1"}),
    "kiku.embed": frozenset({"0.9"}),
}
_NAMES = (
    "sakura-7b",
    "sakura-7b-chat",
    "ume-2",
    "kiku.embed",
    "sakura-*",
    "*",
    "*-chat",
    "u*-2",
    "s*7*",
    "matsu",
    "ume*2",
)
_NUMBERS = ("0.9", "1", "1.0.0", "1.1", "1.2", "1.2.0", "1.10", "2.0.0", "2.0.0.1", "3")
_OPERATORS = (">=", "<=", ">", "<", "==", "!=", "~=")
# Codes of the registers; `UNKNOWN` is in none of them.
ACTIONS = ("chat", "completion", "embed")
PURPOSES = ("general", "research", "medical")
DATA_CLASSES = ("public", "restricted", "secret")
REGIONS = ("jp-east", "jp-west")
TIERS = ("heavy", "edge")
UNKNOWN = "astrology"
COUNTRIES = ("JP", "US", "KR")
ADAPTERS = ("weld", "paint")
# The same moments in several zones, ends of months, and the leap day.
MOMENTS = (
    "2025-12-31T15:00:00Z", "2026-01-01T00:00:00+09:00", "2026-02-28T23:59:59+09:00", "2026-03-31T00:00:00-05:00",
    "2026-04-01T00:00:00+09:00", "2026-10-31T00:00:00+05:30", "2027-03-31T23:00:00Z", "2028-02-29T00:00:00+09:00",
    "2028-02-28T15:00:00Z", "2028-03-01T00:00:00Z",
)  # fmt: skip
_GRACES = (0, 0, 1, 30, 90)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class World:
    """All versions of all licences, the ids that are revoked, the ids of children that go beyond their parent, and what
    is served."""

    documents: tuple[Document, ...]
    revoked: frozenset[str]
    beyond: frozenset[str]
    catalogue: Mapping[str, frozenset[str]] = field(default_factory=lambda: CATALOGUE)

    def newest(self) -> dict[str, Document]:
        """The highest version of each licence."""
        return {document["licence_id"]: document for document in sorted(self.documents, key=lambda one: one["version"])}

    def index(self) -> LicenceIndex:
        """The index that the gateway compiles of it."""
        return compile_index(
            [
                StoredLicence(
                    msgspec.convert(document, LicenceDocument), "0" * 64,
                    1 if document["licence_id"] in self.revoked else None,
                )
                for document in self.documents
            ],
            self.catalogue,
            REGISTERS,
        )  # fmt: skip


def random_world(rng: random.Random, *, roots: int = 3, clauses: int = 3) -> World:
    """Up to `roots` licences with up to `clauses` grants each, and children cut from some of them."""
    documents: list[Document] = []
    beyond: set[str] = set()
    for number in range(rng.randrange(1, roots + 1)):
        root = _root(rng, f"lic-{number}", clauses)
        line = [root] if rng.random() < 0.7 else [root, _next_version(root, _root(rng, f"lic-{number}", clauses))]
        rng.shuffle(line)
        documents += line
        newest = max(line, key=lambda one: int(one["version"]))
        _cut(rng, newest, documents, beyond)
    ids = sorted({document["licence_id"] for document in documents})
    revoked = frozenset(licence_id for licence_id in ids if rng.random() < 0.08)
    if rng.random() < 0.05:  # a parent that is not there
        gone = rng.choice(ids)
        documents = [document for document in documents if document["licence_id"] != gone]
    return World(tuple(documents), revoked, frozenset(beyond))


def random_ask(rng: random.Random, world: World) -> tuple[Ask, int]:
    """A question near some grant of the world, and the moment in microseconds; what it states may be wrong anywhere."""
    document = rng.choice(world.documents) if world.documents else _root(rng, "lic", 1)
    grant = rng.choice(document["grants"])

    def near(named: Sequence[str], every: Sequence[str]) -> str:
        if rng.random() < 0.02:
            return UNKNOWN
        meant = [code for code in named if code in every]
        return rng.choice(meant if meant and rng.random() < 0.95 else every)

    meant = [name.partition("@")[0].strip() for name in grant["models"]]
    models = [model for model in CATALOGUE if any(fnmatchcase(model, name) for name in meant)]
    model = rng.choice(models if models and rng.random() < 0.95 else [*CATALOGUE, "matsu"])
    tenant = document["licensee"]["tenant"] if rng.random() < 0.97 else rng.choice((*TENANTS, "nobody"))
    ask = Ask(
        tenant_id=tenant,
        model=model,
        model_version=rng.choice(sorted(CATALOGUE.get(model, {"1.0.0"}))) if rng.random() < 0.97 else "9.9",
        action=near(grant["actions"], ACTIONS),
        purpose=near(grant["purposes"], PURPOSES),
        data_class=near(grant["data_classes"], DATA_CLASSES),
        country=near(document["personal_data"]["processing_countries"], COUNTRIES),
        region=near(grant["regions"], REGIONS),
        tier=near(grant["tiers"], TIERS),
        adapter=rng.choice(grant["adapters"])
        if grant["adapters"] and rng.random() < 0.3
        else rng.choice(("", "", "", "", "", "sand")),
        own_site=rng.random() < 0.7,
    )
    return ask, _moment(rng, document)


def us(moment: str) -> int:
    """Microseconds since the epoch of an RFC 3339 time."""
    return (datetime.fromisoformat(moment) - _EPOCH) // timedelta(microseconds=1)


def _moment(rng: random.Random, document: Document) -> int:
    """Within the validity, or at one of its edges to the microsecond."""
    validity = document["validity"]
    start, end = us(validity["not_before"]), us(validity["not_after"])
    grace = end + validity["grace_days"] * 86_400_000_000
    if rng.random() < 0.75:
        return rng.randrange(start, end)
    if rng.random() < 0.3:
        return rng.choice((us(MOMENTS[0]) - 1, us(MOMENTS[-1]) + 10**14, end + (grace - end) // 2))
    return rng.choice((start, end, grace)) + rng.choice((-1, 0, 1))


def _root(rng: random.Random, licence_id: str, clauses: int) -> Document:
    start, end = sorted(rng.sample(MOMENTS, 2), key=us)
    if us(start) == us(end):
        end = MOMENTS[-1]
    depth = rng.choice((0, 1, 1, 2))
    return {
        "v": 1,
        "licence_id": licence_id,
        "version": 1,
        "issuer": "kokusan-ai",
        "licensee": {"tenant": rng.choice(TENANTS), "legal_name": "甲", "class": "public"},
        "validity": {"not_before": start, "not_after": end, "grace_days": rng.choice(_GRACES)},
        "grants": [_grant(rng, f"g{number}") for number in range(rng.randrange(1, clauses + 1))],
        "prohibitions": [_prohibition(rng, f"p{number}") for number in range(rng.choice((0, 0, 0, 0, 1, 2)))],
        "delegation": {"allowed": depth > 0, "max_depth": depth},
        "personal_data": {"processing_countries": _some(rng, COUNTRIES)},
    }


def _grant(rng: random.Random, clause_id: str) -> Document:
    return {
        "id": clause_id,
        "models": _patterns(rng),
        "actions": _some(rng, (*ACTIONS, UNKNOWN)),
        "purposes": _codes(rng, PURPOSES),
        "data_classes": _codes(rng, DATA_CLASSES),
        "regions": _codes(rng, REGIONS),
        "tiers": _codes(rng, TIERS),
        "adapters": rng.choice(([], ["*"], _some(rng, ADAPTERS))),
    }


def _prohibition(rng: random.Random, clause_id: str) -> Document:
    """Mostly narrow: a prohibition of everything would hide all else."""
    dimensions = {
        "models": _patterns(rng), "actions": _some(rng, ACTIONS), "purposes": _codes(rng, PURPOSES),
        "data_classes": _codes(rng, DATA_CLASSES), "regions": _codes(rng, REGIONS), "tiers": _codes(rng, TIERS),
    }  # fmt: skip
    named = rng.sample(sorted(dimensions), rng.choice((1, 2, 3, 4, 5)))
    return {"id": clause_id, "match": {name: dimensions[name] for name in named}, "reason": "契約による"}


def _patterns(rng: random.Random) -> list[str]:
    return [_pattern(rng) for _ in range(rng.choice((1, 2, 2, 3)))]


def _pattern(rng: random.Random) -> str:
    name = rng.choice(_NAMES)
    if rng.random() < 0.6:
        return name
    specifiers = [_specifier(rng) for _ in range(rng.choice((1, 1, 2)))]
    return f"{name}{rng.choice(('@', ' @ '))}{rng.choice((',', ', ')).join(specifiers)}"


def _specifier(rng: random.Random) -> str:
    operator, number = rng.choice(_OPERATORS), rng.choice(_NUMBERS)
    if operator == "~=" and "." not in number:
        number += ".0"
    wildcard = ".*" if operator in ("==", "!=") and rng.random() < 0.3 and number.count(".") < 3 else ""
    return f"{operator}{number}{wildcard}"


def _some(rng: random.Random, codes: Sequence[str]) -> list[str]:
    return rng.sample(codes, rng.randint(1, len(codes)))


def _codes(rng: random.Random, codes: Sequence[str]) -> list[str]:
    """Some of them, once in a while with one that no register knows, or every one."""
    if rng.random() < 0.5:
        return ["*"]
    return _some(rng, [*codes, UNKNOWN] if rng.random() < 0.1 else codes)


def _next_version(document: Document, successor: Document) -> Document:
    return {**successor, "version": document["version"] + 1, "supersedes": document["version"]}


def _cut(rng: random.Random, parent: Document, documents: list[Document], beyond: set[str]) -> None:
    """Add children of `parent`, and theirs; sometimes a version of the parent that no longer covers them."""
    children: list[Document] = []
    if parent["delegation"]["allowed"]:
        for number in range(rng.choice((0, 1, 2))):
            child = _child(rng, parent, f"{parent['licence_id']}.{number}")
            if rng.random() < 0.2:
                _widen(rng, child)
                beyond.add(child["licence_id"])
            children.append(child)
            documents.append(child)
            _cut(rng, child, documents, beyond)
    if children and rng.random() < 0.15:
        narrower = _next_version(parent, copy.deepcopy(parent))
        narrower["duties"] = [*parent.get("duties", []), f"年次報告 {parent['licence_id']}"]  # no child carries it over
        documents.append(narrower)
        beyond.update(child["licence_id"] for child in children)


def _child(rng: random.Random, parent: Document, licence_id: str) -> Document:
    child = copy.deepcopy(parent)
    depth = rng.randrange(parent["delegation"]["max_depth"])
    child.update(
        licence_id=licence_id, version=1, issuer=parent["licensee"]["tenant"],
        parent={"licence_id": parent["licence_id"], "version": parent["version"]},
        delegation={"allowed": depth > 0, "max_depth": depth},
    )  # fmt: skip
    child.pop("supersedes", None)
    child["licensee"]["tenant"] = rng.choice([one for one in TENANTS if one != parent["licensee"]["tenant"]])
    child["grants"] = [
        _narrower(rng, grant) for grant in rng.sample(child["grants"], rng.randint(1, len(child["grants"])))
    ]
    if rng.random() < 0.3:
        child["prohibitions"].append(_prohibition(rng, "own"))
    if rng.random() < 0.3:
        child["validity"]["grace_days"] = rng.randrange(child["validity"]["grace_days"] + 1)
    countries = child["personal_data"]["processing_countries"]
    child["personal_data"]["processing_countries"] = _some(rng, countries)
    return child


def _narrower(rng: random.Random, grant: Document) -> Document:
    narrower = {**grant, "models": _some(rng, grant["models"]), "actions": _some(rng, grant["actions"])}
    for name, codes in (
        ("purposes", PURPOSES), ("data_classes", DATA_CLASSES), ("regions", REGIONS), ("tiers", TIERS),
        ("adapters", ADAPTERS),
    ):  # fmt: skip
        given = grant[name]
        if given and rng.random() < 0.5:
            narrower[name] = _some(rng, codes if given == ["*"] else given)
    return narrower


def _widen(rng: random.Random, child: Document) -> None:
    """Take one step beyond the parent."""
    match rng.randrange(5):
        case 0:
            child["validity"]["not_after"] = "2029-01-01T00:00:00Z"
        case 1:
            child["personal_data"]["processing_countries"] = ["JP", "DE"]
        case 2:
            child["delegation"] = {"allowed": True, "max_depth": 8}
        case 3:
            child["issuer"] = "somebody-else"
        case _:
            child["grants"][0]["actions"] = [*child["grants"][0]["actions"], "transcribe"]
