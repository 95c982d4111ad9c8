"""The ODRL export: terms of ODRL 2.2 or of our profile, and everything that binds is said."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.licensing.odrl import CONTEXT, PROFILE, odrl
from gateway.licensing.templates import TEMPLATES, render
from tests.gateway.licensing.contracts import a_child, a_document, parsed

# ODRL Vocabulary & Expression 2.2, the terms that are not deprecated.
ACTIONS = {
    "use", "transfer", "acceptTracking", "aggregate", "annotate", "anonymize", "archive", "attribute", "compensate",
    "concurrentUse", "delete", "derive", "digitize", "display", "distribute", "ensureExclusivity", "execute", "extract",
    "give", "grantUse", "include", "index", "inform", "install", "modify", "move", "nextPolicy", "obtainConsent",
    "play", "present", "print", "read", "reproduce", "reviewPolicy", "sell", "stream", "synchronize", "textToSpeech",
    "transform", "translate", "uninstall", "watermark",
}  # fmt: skip
LEFT_OPERANDS = {
    "absolutePosition", "absoluteSpatialPosition", "absoluteTemporalPosition", "absoluteSize", "count", "dateTime",
    "delayPeriod", "deliveryChannel", "elapsedTime", "event", "fileFormat", "industry", "language", "media",
    "meteredTime", "payAmount", "percentage", "product", "purpose", "recipient", "relativePosition",
    "relativeSpatialPosition", "relativeTemporalPosition", "relativeSize", "resolution", "spatial",
    "spatialCoordinates", "systemDevice", "timeInterval", "unitOfCount", "version", "virtualLocation",
}  # fmt: skip
OPERATORS = {
    "eq", "gt", "gteq", "lt", "lteq", "neq", "isA", "hasPart", "isPartOf", "isAllOf", "isAnyOf", "isNoneOf",
}  # fmt: skip
PROPERTIES = {
    "uid", "profile", "conflict", "permission", "prohibition", "obligation", "duty", "target", "assigner", "assignee",
    "action", "constraint", "leftOperand", "operator", "rightOperand",
}  # fmt: skip
CONFLICT_TERMS = {"perm", "prohibit", "invalid"}
DOCUMENTS = {
    "rich": a_document(),
    "child": a_child(version=2, supersedes=1),
    "prohibited": a_document(
        prohibitions=[{"id": "p", "match": {"actions": ["chat"], "regions": ["jp"]}, "reason": "x"}],
        **{"grants.0.zero_retention": True, "grants.0.quota": {}, "grants.0.priority": None},
    ),
    **{name: render(name) for name in TEMPLATES},
}


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for name, value in tree.items():
            if name not in ("@context", "sekisho:duty"):
                yield from nodes(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from nodes(item)


def every(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def known(term: str, terms: set[str]) -> bool:
    return term in terms or term.startswith("sekisho:")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_export_uses_terms_of_odrl_or_of_the_declared_profile_only(name: str) -> None:
    policy = odrl(parsed(DOCUMENTS[name]))
    assert policy["@context"][0] == CONTEXT
    assert policy["@type"] == "Agreement"
    assert policy["profile"] == PROFILE
    assert policy["conflict"] in CONFLICT_TERMS
    for node in nodes(policy):
        for term in node:
            assert term.startswith(("@", "dcterms:", "sekisho:")) or term in PROPERTIES, term
        assert all(known(action, ACTIONS) for action in every(node.get("action", "use")))
        if "leftOperand" in node:
            assert set(node) == {"leftOperand", "operator", "rightOperand"}
            assert known(node["leftOperand"], LEFT_OPERANDS)
            assert node["operator"] in OPERATORS


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_rule_has_what_the_information_model_requires_of_it(name: str) -> None:
    policy = odrl(parsed(DOCUMENTS[name]))
    assert policy["uid"].startswith("urn:sekisho:licence:")
    assert policy["assigner"] != policy["assignee"]
    for rule in [*policy["permission"], *policy["prohibition"]]:
        assert rule["target"]
        assert rule["action"]
        assert rule.get("constraint", ["none needed"]), "an empty list of constraints is not valid"
    for rule in policy.get("obligation", []):
        assert rule["action"]
    json.dumps(policy)


def constraints(rule: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {(item["leftOperand"], item["operator"]): item["rightOperand"] for item in rule["constraint"]}


def test_grants_become_permissions_with_all_that_bounds_them() -> None:
    [permission, grant_use] = odrl(parsed(a_document()))["permission"]
    assert permission["action"] == ["sekisho:chat", "sekisho:completion", "sekisho:embed", "distribute"]
    assert permission["target"] == ["urn:sekisho:models:base-%2A%40%3E%3D1%2C%3C3", "urn:sekisho:models:acme-7b"]
    bounds = constraints(permission)
    assert bounds["dateTime", "gteq"]["@value"] == "2026-04-01T00:00:00+09:00"
    assert bounds["dateTime", "lt"]["@value"] == "2027-04-01T00:00:00+09:00"
    assert bounds["purpose", "isAnyOf"] == ["sekisho:development", "sekisho:general", "sekisho:production"]
    assert bounds["spatial", "isAnyOf"] == ["sekisho:jp-east", "sekisho:jp-west"]
    assert bounds["sekisho:dataClass", "isAnyOf"] == ["sekisho:public", "sekisho:restricted"]
    assert bounds["sekisho:tier", "isAnyOf"] == ["sekisho:edge", "sekisho:heavy"]
    assert bounds["sekisho:requestsPerMinute", "lteq"] == 100
    assert bounds["sekisho:tokensPerMonth", "lteq"] == 10**6
    assert bounds["sekisho:processingCountry", "isAnyOf"] == ["JP", "DE"]
    [deletion] = permission["duty"]
    assert deletion["action"] == "delete"
    assert constraints(deletion)["elapsedTime", "lteq"]["@value"] == "P30D"
    assert grant_use["action"] == "grantUse"
    assert constraints(grant_use)["recipient", "isAnyOf"] == ["urn:sekisho:party:subby", "urn:sekisho:party:other"]
    assert grant_use["duty"][0]["action"] == "nextPolicy"


def test_prohibitions_duties_and_the_ban_on_training_are_said() -> None:
    policy = odrl(parsed(a_document()))
    own, training = policy["prohibition"]
    assert own["action"] == "use"
    assert own["target"] == ["urn:sekisho:models:base-%2A%40%3C2"]
    assert constraints(own)["purpose", "isAnyOf"] == ["sekisho:legal", "sekisho:medical"]
    assert training["action"] == "sekisho:train"
    assert [duty["sekisho:duty"] for duty in policy["obligation"]] == a_document()["duties"]
    assert "obligation" not in odrl(parsed(a_document(duties=[])))


def test_line_of_versions_and_parents_is_linked() -> None:
    policy = odrl(parsed(a_child(version=2, supersedes=1)))
    assert policy["dcterms:replaces"] == {"@id": "urn:sekisho:licence:lic-subby:1"}
    assert policy["dcterms:source"] == {"@id": "urn:sekisho:licence:lic-acme:1"}
