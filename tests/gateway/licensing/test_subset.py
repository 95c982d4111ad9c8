"""A child licence permits nothing that its parent does not: field by field."""

from typing import Any

import pytest

from gateway.licensing.findings import Finding
from gateway.licensing.subset import check_subset, wider_fields
from tests.gateway.licensing.contracts import a_child, a_document, a_grant, parsed

Document = dict[str, Any]

# Each changes one field of a child that is as wide as its parent, and where the finding must point.
WIDER: dict[str, tuple[dict[str, Any], str]] = {
    "model of another name": ({"grants.0.models": ["base-1@>=1,<3", "ume"]}, "grants[0].models[1]"),
    "wider pattern": ({"grants.0.models": ["bas*@>=1,<3"]}, "grants[0].models[0]"),
    "pattern for a name": ({"grants.0.models": ["acme-7*"]}, "grants[0].models[0]"),
    "later versions": ({"grants.0.models": ["base-*@>=1"]}, "grants[0].models[0]"),
    "earlier versions": ({"grants.0.models": ["base-*@>=0.9,<3"]}, "grants[0].models[0]"),
    "all versions": ({"grants.0.models": ["base-*"]}, "grants[0].models[0]"),
    "one version beside": ({"grants.0.models": ["base-*@==3"]}, "grants[0].models[0]"),
    "action": ({"grants.0.actions": ["chat", "batch"]}, "grants[0].actions"),
    "purpose": ({"grants.0.purposes": ["general", "legal"]}, "grants[0].purposes"),
    "every purpose": ({"grants.0.purposes": ["*"]}, "grants[0].purposes"),
    "data class": ({"grants.0.data_classes": ["public", "secret"]}, "grants[0].data_classes"),
    "region": ({"grants.0.regions": ["jp"]}, "grants[0].regions"),
    "every region": ({"grants.0.regions": ["*"]}, "grants[0].regions"),
    "every tier": ({"grants.0.tiers": ["*"]}, "grants[0].tiers"),
    "adapter": ({"grants.0.adapters": ["a1", "b"]}, "grants[0].adapters"),
    "every adapter": ({"grants.0.adapters": ["*"]}, "grants[0].adapters"),
    "rpm": ({"grants.0.quota.rpm": 101}, "grants[0].quota.rpm"),
    "no rpm": ({"grants.0.quota.rpm": None}, "grants[0].quota.rpm"),
    "tpm": ({"grants.0.quota.tpm": 1001}, "grants[0].quota.tpm"),
    "concurrency": ({"grants.0.quota.concurrency": 11}, "grants[0].quota.concurrency"),
    "tokens": ({"grants.0.quota.tokens_month": 10**6 + 1}, "grants[0].quota.tokens_month"),
    "yen": ({"grants.0.quota.yen_month_hard": 501}, "grants[0].quota.yen_month_hard"),
    "no yen": ({"grants.0.quota.yen_month_hard": None}, "grants[0].quota.yen_month_hard"),
    "soft yen": ({"grants.0.quota.yen_month_soft": 401}, "grants[0].quota.yen_month_soft"),
    "weight": ({"grants.0.priority.weight": 11}, "grants[0].priority.weight"),
    "rate card": ({"grants.0.rate_card": "cheap"}, "grants[0].rate_card"),
    "no rate card": ({"grants.0.rate_card": ""}, "grants[0].rate_card"),
    "retention": ({"grants.0.retention_days": 31}, "grants[0].retention_days"),
    "no retention": ({"grants.0.retention_days": None}, "grants[0].retention_days"),
    "earlier start": ({"validity.not_before": "2026-03-31T23:59:59+09:00"}, "validity.not_before"),
    "later end": ({"validity.not_after": "2027-04-01T00:00:01+09:00"}, "validity.not_after"),
    "longer grace": ({"validity.grace_days": 15}, "validity.grace_days"),
    "longer notice": ({"validity.notice_days": 31}, "validity.notice_days"),
    "delegation to another": ({"delegation.to": ["other", "third"]}, "delegation.to"),
    "delegation to anyone": ({"delegation.to": []}, "delegation.to"),
    "no prohibition": ({"prohibitions": []}, "prohibitions"),
    "narrower prohibition": ({"prohibitions.0.match.purposes": ["legal"]}, "prohibitions"),
    "prohibition of fewer versions": ({"prohibitions.0.match.models": ["base-*@<1"]}, "prohibitions"),
    "prohibition of fewer models": ({"prohibitions.0.match.models": ["base-1@<2"]}, "prohibitions"),
    "prohibition on one action": ({"prohibitions.0.match.actions": ["chat"]}, "prohibitions"),
    "duty dropped": ({"duties": ["mark outputs"]}, "duties"),
    "contribution": ({"ip.contributions": ["c1", "c9"]}, "ip.contributions"),
    "longer exclusivity": ({"ip.exclusive.0.until": "2026-12-01T00:00:01Z"}, "ip.exclusive[0]"),
    "exclusivity on another model": ({"ip.exclusive.0.model": "base-1"}, "ip.exclusive[0]"),
    "exclusivity of another scope": ({"ip.exclusive.0.scope": "all"}, "ip.exclusive[0]"),
    "country of processing": (
        {"personal_data.processing_countries": ["JP", "US"]},
        "personal_data.processing_countries",
    ),
    "country of the licensee": ({"licensee.country": "US"}, "licensee.country"),
}
# The same against a parent that is narrower in the field.
WIDER_THAN: dict[str, tuple[dict[str, Any], str]] = {
    "redistribution": ({"grants.0.redistribution": False}, "grants[0].redistribution"),
    "annex III": ({"grants.0.annex3_high_risk": False}, "grants[0].annex3_high_risk"),
    "prohibition for all models": ({"prohibitions.0.match.models": None}, "prohibitions"),
    "zero retention": ({"grants.0.zero_retention": True}, "grants[0].zero_retention"),
    "priority": ({"grants.0.priority": None}, "grants[0].priority"),
    "priority class": ({"grants.0.priority.class": "public"}, "grants[0].priority.class"),
    "licensee class": ({"licensee.class": "research"}, "licensee.class"),
    "licensee role": ({"licensee.role": "deployer"}, "licensee.role"),
    "handling mode": ({"personal_data.handling_mode": "zero_retention"}, "personal_data.handling_mode"),
}  # fmt: skip


def finding_of(child: Document, parent: Document) -> tuple[str, str]:
    try:
        check_subset(parsed(child), parsed(parent))
    except Finding as finding:
        return finding.code, finding.path
    return "", ""


def test_child_as_wide_as_its_parent_is_accepted() -> None:
    assert finding_of(a_child(), a_document()) == ("", "")


@pytest.mark.parametrize(("changes", "path"), WIDER.values(), ids=WIDER.keys())
def test_child_that_is_wider_in_one_field_is_refused_with_that_field(changes: dict[str, Any], path: str) -> None:
    child = a_child(**changes)
    assert finding_of(child, a_document()) == ("child_wider_than_parent", path)
    assert [field for field, _ in wider_fields(parsed(child), parsed(a_document()))] == [path]


@pytest.mark.parametrize(("changes", "path"), WIDER_THAN.values(), ids=WIDER_THAN.keys())
def test_child_of_a_parent_that_is_narrower_in_one_field_is_refused_with_it(changes: dict[str, Any], path: str) -> None:
    assert finding_of(a_child(), a_document(**changes)) == ("child_wider_than_parent", path)


def test_every_field_of_a_grant_is_compared() -> None:
    compared = {
        path.split(".")[1].split("[")[0] for _, path in [*WIDER.values(), *WIDER_THAN.values()] if "s[0]." in path
    }
    assert compared == set(a_grant()) - {"id"}


def test_each_grant_must_lie_within_one_grant_not_in_several_together() -> None:
    parent = a_document(
        grants=[a_grant(id="east", regions=["jp-east"]), a_grant(id="west", regions=["jp-west"])]
    )  # fmt: skip
    assert finding_of(a_child(), parent) == ("child_wider_than_parent", "grants[0].regions")
    halves = [a_grant(id="e", regions=["jp-east"]), a_grant(id="w", regions=["jp-west"])]
    assert finding_of(a_child(grants=halves), parent) == ("", "")


def test_second_grant_is_checked_like_the_first() -> None:
    child = a_child(grants=[a_grant(), a_grant(id="g2", actions=["batch"])])
    assert finding_of(child, a_document()) == ("child_wider_than_parent", "grants[1].actions")


def test_stricter_or_more_prohibitions_are_no_widening() -> None:
    for match in ({}, {"purposes": ["*"]}, {"models": ["base-*"], "purposes": ["legal", "medical", "finance"]}):
        assert finding_of(a_child(**{"prohibitions.0.match": match}), a_document()) == ("", "")
    more = [*a_child()["prohibitions"], {"id": "p2", "match": {"actions": ["chat"]}, "reason": "own"}]
    assert finding_of(a_child(prohibitions=more), a_document()) == ("", "")


def test_earlier_end_does_not_earn_a_longer_grace_than_the_parents() -> None:
    earlier = {"validity.not_after": "2027-03-31T00:00:00+09:00"}
    assert finding_of(a_child(**earlier, **{"validity.grace_days": 15}), a_document()) == ("", "")
    assert finding_of(a_child(**earlier, **{"validity.grace_days": 16}), a_document()) == (
        "child_wider_than_parent",
        "validity.grace_days",
    )


def test_the_same_moment_in_another_zone_is_no_widening() -> None:
    utc = {"validity.not_before": "2026-03-31T15:00:00Z", "validity.not_after": "2027-03-31T15:00:00Z"}
    assert finding_of(a_child(**utc), a_document()) == ("", "")


def test_register_that_grows_does_not_widen_a_child_behind_its_parents_back() -> None:
    every = ["general", "research", "development", "evaluation", "production"]
    assert finding_of(a_child(**{"grants.0.purposes": ["*"]}), a_document(**{"grants.0.purposes": every}))[0]
    assert finding_of(a_child(**{"grants.0.purposes": every}), a_document(**{"grants.0.purposes": ["*"]})) == ("", "")
