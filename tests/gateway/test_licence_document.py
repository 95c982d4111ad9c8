"""Licence documents: parsing and compilation."""

import json
from typing import Any

import msgspec
import pytest

from gateway.licensing.decide import decide
from gateway.licensing.document import StoredLicence, compile_index, parse_document


def a_document(version: int = 1, **changes: Any) -> str:
    document = {
        "v": 1, "licence_id": "lic-1", "version": version, "licensee": {"tenant": "a", "class": "investor"},
        "validity": {"not_before": "2026-01-01T00:00:00+09:00", "not_after": "2027-01-01T00:00:00+09:00"},
        "grants": [{"id": "g1", "models": ["m1", "m2"], "actions": ["chat"], "regions": ["jp-east"]}],
    }  # fmt: skip
    return json.dumps({**document, **changes})


NOW = 1_795_489_348_000_000


def test_grants_become_rules_of_every_model_they_name() -> None:
    index = compile_index([StoredLicence(parse_document(a_document()), signed=False)])
    for model in ("m1", "m2"):
        decision = decide(index, "a", model, "chat", NOW)
        assert decision.grant is not None
        assert (decision.grant.rule_id, decision.grant.licence, decision.grant.signed) == ("lic-1/g1", "lic-1@1", False)


def test_newer_version_supersedes_even_when_it_takes_away() -> None:
    taken = a_document(2, grants=[])
    index = compile_index([StoredLicence(parse_document(text), signed=False) for text in (a_document(), taken)])
    assert not decide(index, "a", "m1", "chat", NOW).allowed


def test_revoked_version_does_not_bring_its_predecessor_back() -> None:
    index = compile_index(
        [StoredLicence(parse_document(a_document()), False), StoredLicence(parse_document(a_document(2)), False, True)]
    )
    assert not decide(index, "a", "m1", "chat", NOW).allowed


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"validity": {"not_before": "2026-01-01T00:00:00", "not_after": "2027-01-01T00:00:00+09:00"}}, "no offset"),
        ({"validity": {"not_before": "2027-01-01T00:00:00Z", "not_after": "2026-01-01T00:00:00Z"}}, "not later"),
        ({"version": "1"}, "version"),
        ({"grants": [{"id": "g1", "models": ["m1"]}]}, "actions"),
        ({"licence_id": "x" * 33}, "licence_id"),
    ],
)
def test_broken_document_is_refused_with_its_field(changes: dict[str, Any], finding: str) -> None:
    with pytest.raises((msgspec.ValidationError, ValueError), match=finding):
        parse_document(a_document(**changes))
