"""The decision: what is told, in which order, by which rule, and when to the microsecond."""

from typing import Any, get_args

import pytest
from msgspec.structs import replace

from gateway.faults import CATALOGUE, Fault
from gateway.licensing.compile import compile_index
from gateway.licensing.decide import Ask, Decision, LicenceIndex, Refusal, decide, models_of, permitted_until
from gateway.licensing.document import StoredLicence
from gateway.licensing.registers import REGISTERS
from tests.gateway.licensing.contracts import DAY, a_document, a_grant, parsed
from tests.gateway.licensing.worlds import us

CATALOGUE_OF_MODELS = {"base-7b": frozenset({"1.0.0", "2.1.0", "3.0.0"}), "acme-7b": frozenset({"1.0.0"})}
NOW = us("2026-11-24T08:00:00Z")
ASK = Ask(
    tenant_id="acme", model="base-7b", model_version="2.1.0", action="chat", purpose="general", data_class="restricted",
    country="JP", region="jp-east", tier="heavy", adapter="", own_site=False,
)  # fmt: skip


def an_index(*documents: dict[str, Any], revoked: tuple[str, ...] = ()) -> LicenceIndex:
    licences = [StoredLicence(parsed(one), "0" * 64, 1 if one["licence_id"] in revoked else None) for one in documents]
    return compile_index(licences, CATALOGUE_OF_MODELS, REGISTERS)


def lasting(start: str, end: str, grace_days: int = 0) -> LicenceIndex:
    validity = {"not_before": start, "not_after": end, "grace_days": grace_days, "notice_days": 0}
    return an_index(a_document(validity=validity))


def refusal_at(index: LicenceIndex, *moments: int) -> list[str]:
    return [decide(index, ASK, moment).refusal for moment in moments]


def test_nothing_is_permitted_by_default() -> None:
    assert decide({}, ASK, NOW) == Decision(None, "no_grant", "", "", False)
    assert permitted_until(decide({}, ASK, NOW)) == 0


def test_permission_names_rule_licence_limits_and_its_end() -> None:
    decision = decide(an_index(a_document()), ASK, NOW)
    assert (decision.refusal, decision.rule_id, decision.licence) == ("", "lic-acme/g1", "lic-acme@1")
    assert decision.grant is not None
    assert (decision.grant.limits.tokens_month, decision.grant.limits.micro_yen_month) == (10**6, 500_000_000)
    assert (decision.grant.limits.rpm, decision.grant.limits.concurrency) == (100, 10)
    assert (decision.grant.priority_class, decision.grant.weight, decision.grant.rate_card) == ("investor", 10, "std")
    assert permitted_until(decision) == us("2027-04-01T00:00:00+09:00") + 14 * DAY


@pytest.mark.parametrize(
    ("refusal", "changes"),
    [
        ("no_grant", {"tenant_id": "other"}),
        ("no_grant", {"model": "base-13b"}),
        ("prohibited", {"purpose": "legal", "model_version": "1.0.0"}),
        ("model_version_not_licensed", {"model_version": "3.0.0"}),
        ("model_version_not_licensed", {"model_version": "7"}),
        ("action_not_licensed", {"action": "transcribe"}),
        ("action_not_licensed", {"action": "divine"}),
        ("unknown_purpose", {"purpose": "astrology"}),
        ("purpose_not_licensed", {"purpose": "medical"}),
        ("unknown_data_class", {"data_class": "cosmic"}),
        ("data_class_not_licensed", {"data_class": "secret", "own_site": True}),
        ("country_not_licensed", {"country": "US"}),
        ("region_not_licensed", {"region": "jp-north"}),
        ("tier_not_licensed", {"tier": "orbit"}),
        ("adapter_not_licensed", {"adapter": "a9"}),
        ("", {"adapter": "a2"}),
    ],
)  # fmt: skip
def test_each_fact_that_no_grant_admits_is_told_as_such(refusal: str, changes: dict[str, Any]) -> None:
    decision = decide(an_index(a_document()), replace(ASK, **changes), NOW)
    assert decision.refusal == refusal
    assert decision.rule_id == {"no_grant": "", "prohibited": "lic-acme/p1"}.get(refusal, "lic-acme/g1")


def test_secret_data_is_only_served_at_the_tenants_own_site() -> None:
    index = an_index(a_document(grants=[a_grant(data_classes=["secret"])]))
    assert decide(index, replace(ASK, data_class="secret"), NOW).refusal == "secret_needs_own_site"
    assert decide(index, replace(ASK, data_class="secret", own_site=True), NOW).allowed


def test_several_wrong_facts_are_told_in_the_order_of_the_refusals() -> None:
    """Each fact made right uncovers the next refusal, and never one that stands before it."""
    prohibition = {"id": "p1", "match": {"purposes": ["legal"]}, "reason": "-"}
    index = an_index(a_document(grants=[a_grant(purposes=["general"])], prohibitions=[prohibition]))
    wrong = replace(
        ASK, model_version="3.0.0", action="divine", purpose="legal", data_class="secret", country="US", region="mars",
        tier="orbit", adapter="a9",
    )  # fmt: skip
    steps: list[dict[str, Any]] = [
        {}, {"purpose": "medical"}, {"model_version": "2.1.0"}, {"action": "chat"}, {"purpose": "general"},
        {"data_class": "public"}, {"country": "DE"}, {"region": "jp-west"}, {"tier": "edge"}, {"adapter": "a1"},
    ]  # fmt: skip
    told: list[str] = []
    for step in steps:
        wrong = replace(wrong, **step)
        told.append(decide(index, wrong, NOW).refusal)
    assert told == [
        "prohibited", "model_version_not_licensed", "action_not_licensed", "purpose_not_licensed",
        "data_class_not_licensed", "country_not_licensed", "region_not_licensed", "tier_not_licensed",
        "adapter_not_licensed", "",
    ]  # fmt: skip
    ranks = [get_args(Refusal).index(refusal) for refusal in told[:-1]]
    assert ranks == sorted(ranks)


def test_prohibition_of_another_licence_of_the_tenant_wins_over_a_grant() -> None:
    forbidding = a_document(
        licence_id="lic-b", prohibitions=[{"id": "no-chat", "match": {"actions": ["chat"]}, "reason": "-"}]
    )
    decision = decide(an_index(a_document(), forbidding), ASK, NOW)
    assert (decision.refusal, decision.rule_id, decision.licence) == ("prohibited", "lic-b/no-chat", "lic-b@1")
    assert decision.grant is None


def test_prohibition_without_any_dimension_forbids_everything() -> None:
    index = an_index(a_document(prohibitions=[{"id": "p1", "match": {}, "reason": "-"}]))
    assert decide(index, ASK, NOW).refusal == "prohibited"
    assert models_of(index, "acme", NOW) == []


def test_prohibition_is_not_told_of_a_model_that_was_never_granted() -> None:
    """Nobody learns from it that the model exists."""
    index = an_index(
        a_document(prohibitions=[{"id": "p1", "match": {}, "reason": "-"}], grants=[a_grant(models=["x"])])
    )
    assert decide(index, ASK, NOW).refusal == "no_grant"


@pytest.mark.parametrize(
    ("dimension", "code", "changes", "refusal"),
    [
        ("actions", "chat", {"action": "divine"}, "action_not_licensed"),
        ("purposes", "general", {"purpose": "astrology"}, "unknown_purpose"),
        ("data_classes", "restricted", {"data_class": "cosmic"}, "unknown_data_class"),
        ("regions", "jp-east", {"region": "mars"}, "region_not_licensed"),
        ("tiers", "heavy", {"tier": "orbit"}, "tier_not_licensed"),
    ],
)
def test_prohibition_of_one_code_is_not_told_of_a_code_that_nobody_knows(
    dimension: str, code: str, changes: dict[str, Any], refusal: str
) -> None:
    index = an_index(a_document(prohibitions=[{"id": "p1", "match": {dimension: [code]}, "reason": "-"}]))
    assert decide(index, ASK, NOW).refusal == "prohibited"
    assert decide(index, replace(ASK, **changes), NOW).refusal == refusal


def test_prohibition_ends_with_its_licence() -> None:
    short = a_document(
        **{"licence_id": "lic-b", "validity.not_after": "2026-12-01T00:00:00+09:00", "validity.grace_days": 0},
        prohibitions=[{"id": "p1", "match": {"actions": ["chat"]}, "reason": "-"}],
    )
    end = us("2026-12-01T00:00:00+09:00")
    assert refusal_at(an_index(a_document(), short), end - 1, end) == ["prohibited", ""]
    assert refusal_at(an_index(a_document(), short, revoked=("lic-b",)), NOW) == [""]


def test_first_grant_in_the_order_of_licence_and_document_decides() -> None:
    second = a_document(licence_id="lic-b", prohibitions=[])
    first = a_document(grants=[a_grant(id="z"), a_grant(id="a")], prohibitions=[])
    assert decide(an_index(second, first), ASK, NOW).rule_id == "lic-acme/z"


def test_refusal_names_a_grant_in_force_before_one_that_is_not() -> None:
    past = a_document(**{"licence_id": "lic-a", "validity.not_after": "2026-06-01T00:00:00+09:00"})
    decision = decide(an_index(past, a_document(licence_id="lic-b")), replace(ASK, action="transcribe"), NOW)
    assert (decision.refusal, decision.rule_id) == ("action_not_licensed", "lic-b/g1")


def test_time_is_told_only_when_everything_else_fits_and_the_nearest_end_of_it() -> None:
    past = a_document(**{"licence_id": "lic-a", "validity.not_after": "2026-06-01T00:00:00+09:00"})
    future = a_document(**{"licence_id": "lic-b", "validity.not_before": "2027-01-01T00:00:00+09:00"})
    revoked = a_document(licence_id="lic-c")
    everything = an_index(past, future, revoked, revoked=("lic-c",))
    assert decide(everything, ASK, NOW).rule_id == "lic-b/g1"
    assert decide(everything, ASK, NOW).refusal == "licence_not_yet_valid"
    assert decide(an_index(past, revoked, revoked=("lic-c",)), ASK, NOW).refusal == "licence_expired"
    decision = decide(an_index(revoked, revoked=("lic-c",)), ASK, NOW)
    assert (decision.refusal, decision.rule_id, decision.licence) == ("licence_revoked", "lic-c/g1", "lic-c@1")
    assert refusal_at(an_index(future, revoked=("lic-b",)), NOW) == ["licence_revoked"]
    assert decide(everything, replace(ASK, tier="orbit"), NOW).refusal == "tier_not_licensed"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-01-31T00:00:00+09:00", "2026-03-01T00:00:00+09:00"),
        ("2026-01-30T15:00:00Z", "2026-02-28T15:00:00Z"),
        ("2028-02-29T00:00:00+09:00", "2028-03-01T00:00:00+09:00"),
        ("2028-02-28T10:00:00-05:00", "2028-02-29T20:30:00+05:30"),
        ("2026-04-30T23:59:59.999999+09:00", "2026-05-01T00:00:00.000001+09:00"),
    ],
)
def test_validity_includes_its_first_and_excludes_its_last_microsecond(start: str, end: str) -> None:
    index = lasting(start, end)
    assert refusal_at(index, us(start) - 1, us(start), us(end) - 1, us(end)) == [
        "licence_not_yet_valid", "", "", "licence_expired",
    ]  # fmt: skip


def test_the_same_moment_in_another_zone_decides_alike() -> None:
    japan = lasting("2026-04-01T00:00:00+09:00", "2027-04-01T00:00:00+09:00", 30)
    utc = lasting("2026-03-31T15:00:00Z", "2027-03-31T15:00:00Z", 30)
    assert japan == utc


@pytest.mark.parametrize(
    ("end", "grace_days", "over"),
    [
        ("2026-03-31T00:00:00+09:00", 30, "2026-04-30T00:00:00+09:00"),
        ("2028-02-28T00:00:00+09:00", 1, "2028-02-29T00:00:00+09:00"),
        ("2028-02-28T00:00:00+09:00", 2, "2028-03-01T00:00:00+09:00"),
        ("2027-02-28T00:00:00Z", 1, "2027-03-01T00:00:00Z"),
        ("2026-12-31T15:00:00Z", 90, "2027-03-31T15:00:00Z"),
    ],
)
def test_grace_follows_the_end_for_whole_days_and_is_told(end: str, grace_days: int, over: str) -> None:
    index = lasting("2026-01-01T00:00:00+09:00", end, grace_days)
    moments = (us(end) - 1, us(end), us(over) - 1, us(over))
    decisions = [decide(index, ASK, moment) for moment in moments]
    assert [decision.allowed for decision in decisions] == [True, True, True, False]
    assert [decision.in_grace for decision in decisions] == [False, True, True, False]
    assert [permitted_until(decision) for decision in decisions] == [us(over), us(over), us(over), 0]


def test_grace_goes_on_when_something_else_begins_or_ends_within_it() -> None:
    first = a_document(
        **{"validity.not_after": "2026-11-20T00:00:00+09:00", "validity.grace_days": 10}, prohibitions=[]
    )
    later = a_document(
        **{"licence_id": "lic-b", "validity.not_before": "2026-11-22T00:00:00+09:00"},
        grants=[a_grant(models=["acme-7b"])],
    )
    index = an_index(first, later)
    for moment in ("2026-11-21T00:00:00+09:00", "2026-11-22T00:00:00+09:00", "2026-11-29T23:59:59.999999+09:00"):
        assert decide(index, ASK, us(moment)).in_grace
    assert refusal_at(index, us("2026-11-30T00:00:00+09:00")) == ["licence_expired"]


def test_clock_that_goes_back_only_takes_the_decision_of_that_time() -> None:
    """No decision depends on one before it: the process holds no memory of the time."""
    index = lasting("2026-04-01T00:00:00+09:00", "2027-04-01T00:00:00+09:00")
    end = us("2027-04-01T00:00:00+09:00")
    assert refusal_at(index, end - 1, end, end - 1) == ["", "licence_expired", ""]


def test_models_are_listed_while_some_grant_permits_them_in_some_way() -> None:
    acme_only = a_document(licence_id="lic-b", grants=[a_grant(models=["acme-7b"])], prohibitions=[])
    base_only = a_document(
        **{"validity.not_after": "2026-12-01T00:00:00+09:00", "validity.grace_days": 1},
        grants=[a_grant(models=["base-*"])],
    )
    index = an_index(acme_only, base_only)
    end = us("2026-12-02T00:00:00+09:00")
    assert models_of(index, "acme", NOW) == ["acme-7b", "base-7b"]
    assert models_of(index, "acme", end - 1) == ["acme-7b", "base-7b"]
    assert models_of(index, "acme", end) == ["acme-7b"]
    assert models_of(index, "other", NOW) == []


def test_model_that_is_wholly_prohibited_is_not_listed() -> None:
    whole = {"id": "p1", "match": {"models": ["base-*"]}, "reason": "-"}
    narrow = {"id": "p2", "match": {"models": ["acme-*"], "purposes": ["legal"]}, "reason": "-"}
    assert models_of(an_index(a_document(prohibitions=[whole, narrow])), "acme", NOW) == ["acme-7b"]


@pytest.mark.parametrize("refusal", [refusal for refusal in get_args(Refusal) if refusal not in ("", "no_grant")])
def test_every_refusal_is_told_with_403_in_both_languages(refusal: str) -> None:
    fault = Fault(
        refusal, param="X-Sekisho-Purpose", action="chat", purpose="legal", data_class="secret", country="US",
        region="jp-north", tier="edge", version="3.0.0",
    )  # fmt: skip
    assert (CATALOGUE[refusal].status, CATALOGUE[refusal].outcome) == (403, "refused_licence")
    for language in ("ja", "en"):
        assert fault.text(language) and fault.cure(language)
