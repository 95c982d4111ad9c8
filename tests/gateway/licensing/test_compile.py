"""Compilation: which version counts, what patterns mean, and that a child has never more than its parent."""

import random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gateway.licensing.compile import Catalogue, affected_tenants, compile_index, compile_tenant
from gateway.licensing.decide import Ask, LicenceIndex, decide, models_of, permitted_until
from gateway.licensing.document import LicenceDocument, StoredLicence
from gateway.licensing.registers import REGISTERS
from tests.gateway.licensing.contracts import DAY, a_child, a_document, a_grant, parsed
from tests.gateway.licensing.test_decide import ASK, NOW
from tests.gateway.licensing.worlds import CATALOGUE, random_ask, random_world, us

MODELS: Catalogue = {"base-7b": frozenset({"1.0.0", "2.1.0", "3.0.0"}), "acme-7b": frozenset({"1.0.0"})}
CHILD_ASK = replace(ASK, tenant_id="subby")


def a_licence(document: dict[str, Any], revoked_at: int | None = None) -> StoredLicence:
    return StoredLicence(parsed(document), "0" * 64, revoked_at)


def an_index(*documents: dict[str, Any], catalogue: Catalogue = MODELS) -> LicenceIndex:
    return compile_index([a_licence(document) for document in documents], catalogue, REGISTERS)


def told(index: LicenceIndex, ask: Ask = CHILD_ASK, now: int = NOW) -> str:
    return decide(index, ask, now).refusal


@pytest.mark.parametrize("order", [1, -1])
def test_only_the_highest_version_counts_in_whatever_order_versions_are_read(order: int) -> None:
    versions = [a_document(), a_document(version=2, grants=[a_grant(actions=["embed"])])][::order]
    decision = decide(an_index(*versions), ASK, NOW)
    assert (decision.refusal, decision.licence) == ("action_not_licensed", "lic-acme@2")


def test_revoked_version_does_not_bring_its_predecessor_back() -> None:
    licences = [a_licence(a_document()), a_licence(a_document(version=2), revoked_at=NOW)]
    decision = decide(compile_index(licences, MODELS, REGISTERS), ASK, NOW)
    assert (decision.refusal, decision.licence) == ("licence_revoked", "lic-acme@2")


def test_version_that_begins_later_has_already_replaced_the_one_before() -> None:
    later = a_document(**{"version": 2, "validity.not_before": "2026-12-01T00:00:00+09:00"})
    assert told(an_index(a_document(), later), ASK) == "licence_not_yet_valid"


@pytest.mark.parametrize(
    ("pattern", "versions"),
    [
        ("base-7b", "1.0.0 2.1.0 3.0.0"), ("base-*", "1.0.0 2.1.0 3.0.0"), ("*", "1.0.0 2.1.0 3.0.0"),
        ("base-7b @ >=2", "2.1.0 3.0.0"), ("*-7b@>=1,<3", "1.0.0 2.1.0"), ("base-7b@==2.*", "2.1.0"),
        ("base-7b@~=2.0", "2.1.0"), ("base-7b@!=2.1", "1.0.0 3.0.0"), ("base", ""), ("base-7b@>3", ""),
    ],
)  # fmt: skip
def test_pattern_means_the_models_and_versions_that_are_served(pattern: str, versions: str) -> None:
    index = an_index(a_document(grants=[a_grant(models=[pattern])], prohibitions=[]))
    allowed = [
        version for version in sorted(MODELS["base-7b"]) if told(index, replace(ASK, model_version=version)) == ""
    ]
    assert " ".join(allowed) == versions


def test_model_that_nobody_serves_is_not_granted_and_one_that_appears_is() -> None:
    document = a_document(grants=[a_grant(models=["base-*"])])
    assert told(an_index(document, catalogue={}), ASK) == "no_grant"
    assert models_of(an_index(document, catalogue={}), "acme", NOW) == []
    newer = {**MODELS, "base-13b": frozenset({"1.0.0"})}
    assert models_of(an_index(document, catalogue=newer), "acme", NOW) == ["base-13b", "base-7b"]


def test_code_that_the_register_does_not_know_matches_nothing() -> None:
    unknown = a_grant(purposes=["astrology"], actions=["*", "divine"], adapters=["*", "a1"])
    licence = StoredLicence(msgspec.convert(a_document(grants=[unknown]), LicenceDocument), "0" * 64)
    index = compile_index([licence], MODELS, REGISTERS)
    assert told(index, replace(ASK, action="divine")) == "action_not_licensed"
    assert told(index, ASK) == "action_not_licensed"


def test_actions_are_granted_one_by_one() -> None:
    assert told(an_index(a_document(grants=[a_grant(actions=["*"])])), ASK) == "action_not_licensed"


def test_every_code_of_the_register_is_meant_by_a_star_alone_and_no_other() -> None:
    everything = a_grant(purposes=["*"], data_classes=["*"], regions=["*"], tiers=["*"], adapters=["*"])
    index = an_index(a_document(grants=[everything], prohibitions=[]))
    for purpose in REGISTERS.purposes:
        assert told(index, replace(ASK, purpose=purpose, adapter="any")) == ""
    assert told(index, replace(ASK, purpose="astrology")) == "unknown_purpose"
    assert told(index, replace(ASK, region="mars")) == "region_not_licensed"


def test_child_within_its_parent_grants_by_its_own_rule() -> None:
    decision = decide(an_index(a_document(), a_child()), CHILD_ASK, NOW)
    assert (decision.allowed, decision.rule_id, decision.licence) == (True, "lic-subby/g1", "lic-subby@1")


def test_child_goes_with_its_parent_and_with_its_grandparent() -> None:
    grandchild = a_child(
        licence_id="lic-other", issuer="subby", parent={"licence_id": "lic-subby", "version": 1},
        licensee={"tenant": "other", "legal_name": "-", "class": "investor"}, delegation={},
    )  # fmt: skip
    ask = replace(ASK, tenant_id="other")
    everyone = [a_document(), a_child(), grandchild]
    assert told(an_index(*everyone), ask) == ""
    for gone in ("lic-acme", "lic-subby"):
        licences = [a_licence(one, NOW if one["licence_id"] == gone else None) for one in everyone]
        decision = decide(compile_index(licences, MODELS, REGISTERS), ask, NOW)
        assert (decision.refusal, decision.rule_id, decision.licence) == (
            "licence_revoked",
            "lic-other/g1",
            "lic-other@1",
        )
        missing = [one for one in everyone if one["licence_id"] != gone]
        assert told(an_index(*missing), ask) == "licence_revoked"


@pytest.mark.parametrize(
    "changes",
    [
        {"grants.0.actions": ["embed"]},
        {"grants.0.quota.rpm": 99},
        {"validity.not_after": "2027-03-31T00:00:00+09:00"},
        {"delegation": {"allowed": False, "max_depth": 0, "to": []}},
        {"delegation.to": ["other"]},
        {"personal_data.processing_countries": ["JP"]},
        {"duties": ["mark outputs", {"kind": "report", "every_days": 30}, "keep a log"]},
    ],
)
def test_child_wider_than_the_newest_version_of_its_parent_grants_nothing(changes: dict[str, Any]) -> None:
    narrower = a_document(**{"version": 2, **changes})
    assert told(an_index(a_document(), narrower, a_child())) == "licence_revoked"
    assert told(an_index(a_document(), a_document(version=2), a_child())) == ""


def test_licences_that_are_cut_from_each_other_grant_nothing() -> None:
    one = a_child(licence_id="lic-a", parent={"licence_id": "lic-b", "version": 1}, issuer="other")
    other = a_child(licence_id="lic-b", parent={"licence_id": "lic-a", "version": 1}, issuer="subby")
    other["licensee"]["tenant"] = "other"
    assert told(an_index(one, other)) == "licence_revoked"


def test_child_that_would_outlast_its_parent_grants_nothing() -> None:
    for changes in ({"validity.not_after": "2027-04-01T00:00:00.000001+09:00"}, {"validity.grace_days": 15}):
        assert told(an_index(a_document(), a_child(**changes))) == "licence_revoked"


def test_child_ends_with_its_parents_grace_to_the_microsecond() -> None:
    shorter = a_child(**{"validity.not_after": "2027-02-01T00:00:00+09:00", "validity.grace_days": 3})
    for child, end in (
        (shorter, us("2027-02-01T00:00:00+09:00") + 3 * DAY),
        (a_child(), us("2027-04-01T00:00:00+09:00") + 14 * DAY),
    ):
        index = an_index(a_document(), child)
        assert permitted_until(decide(index, CHILD_ASK, NOW)) == end
        assert [told(index, now=end - 1), told(index, now=end)] == ["", "licence_expired"]


def test_tenants_of_a_changed_licence_and_of_all_below_it_are_affected() -> None:
    grandchild = a_child(
        licence_id="lic-other", issuer="subby", parent={"licence_id": "lic-subby", "version": 1},
        licensee={"tenant": "other", "legal_name": "-", "class": "investor"}, delegation={},
    )  # fmt: skip
    stranger = a_document(licence_id="lic-far", licensee={"tenant": "far", "legal_name": "-", "class": "public"})
    newest = {one["licence_id"]: a_licence(one) for one in (a_document(), a_child(), grandchild, stranger)}
    assert affected_tenants({"lic-acme"}, newest) == {"acme", "subby", "other"}
    assert affected_tenants({"lic-subby"}, newest) == {"subby", "other"}
    assert affected_tenants({"lic-far", "lic-unknown"}, newest) == {"far"}
    del newest["lic-acme"]  # its children are still found
    assert affected_tenants({"lic-acme"}, newest) == {"subby", "other"}


def test_tenants_that_are_not_affected_by_a_change_have_the_same_index_before_and_after() -> None:
    """What a delta does not compile anew would have compiled to the same: 300 seeded worlds, each with one change."""
    rng = random.Random(3)
    compared = 0
    for _ in range(300):
        world = random_world(rng)
        newest = {
            one["licence_id"]: StoredLicence(msgspec.convert(one, LicenceDocument), "0" * 64)
            for one in world.newest().values()
        }
        if not newest:
            continue
        changed = rng.choice(sorted(newest))
        after = {**newest, changed: StoredLicence(newest[changed].document, "0" * 64, revoked_at=1)}
        if rng.random() < 0.3:
            del after[changed]
        affected = affected_tenants({changed}, newest) | affected_tenants({changed}, after)
        before_index = compile_index(newest.values(), CATALOGUE, REGISTERS)
        after_index = compile_index(after.values(), CATALOGUE, REGISTERS)
        for tenant in set(before_index) | set(after_index):
            if tenant not in affected:
                assert before_index[tenant] == after_index[tenant]
                compared += 1
    assert compared > 100


def test_tenant_compiled_alone_equals_the_tenant_within_the_whole_index() -> None:
    rng = random.Random(4)
    for _ in range(200):
        world = random_world(rng)
        whole = world.index()
        newest = {
            one["licence_id"]: StoredLicence(
                msgspec.convert(one, LicenceDocument),
                "0" * 64,
                1 if one["licence_id"] in world.revoked else None,
            )
            for one in world.newest().values()
        }
        for tenant, compiled in whole.items():
            own = [one for one in newest.values() if one.document.licensee.tenant == tenant]
            rng.shuffle(own)
            assert compile_tenant(own, CATALOGUE, REGISTERS, newest) == compiled


def test_index_is_not_changed_by_decisions() -> None:
    rng = random.Random(5)
    world = random_world(rng)
    index = world.index()
    for _ in range(200):
        decide(index, *random_ask(rng, world))
    assert index == world.index()
