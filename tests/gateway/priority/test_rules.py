"""The rules as pure functions: who has priority and why, what time may change, and what a policy may not."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.faults import Language
from gateway.licensing.compile import compile_index
from gateway.licensing.decide import Ask, decide, models_of
from gateway.licensing.findings import Finding
from gateway.licensing.registers import REGISTERS
from gateway.licensing.times import DAY_US
from gateway.priority.checks import check_policy
from gateway.priority.register import (
    BUILT_IN,
    GROUPS,
    Contribution,
    Lineage,
    Policy,
    Register,
    Window,
    months_after,
)
from gateway.priority.rules import REASONS, RULES, Claim, standing
from gateway.priority.windows import windows_of
from tests.gateway.priority.world import (
    A_YEAR_LATER,
    BASE,
    KIKAI,
    LINEAGE,
    MODEL,
    NATIONAL,
    SHIMA,
    a_policy,
    contribution,
    licence,
    register,
    stored,
    us,
)

LANGUAGES: tuple[Language, ...] = get_args(Language)
NOW = us("2026-11-24T09:00:00+09:00")
INVESTOR = Claim(KIKAI, "kikai", "investor", "investor", 10, frozenset({"c-kikai"}))
PUBLIC = Claim(SHIMA, "town", "public", "public", 1)
CATALOGUE = {MODEL: frozenset({"1.0.0", "1.1.0"}), BASE: frozenset({"1.0.0"})}


def test_owner_of_a_contribution_in_the_lineage_has_priority_and_is_told_why() -> None:
    found = standing(register(), [INVESTOR], (), "kikai", LINEAGE, NOW)
    assert (found.group, found.owner, found.weight, found.band) == ("priority", KIKAI, 10, 0)
    assert [reason.rule for reason in found.why] == ["R1", "R4", "R8"]
    assert "c-kikai" in found.why[0].text("en") and "c-kikai" in found.why[0].text("ja")


@pytest.mark.parametrize(
    ("claim", "lineage"),
    [
        (INVESTOR, replace(LINEAGE, contributions=("c-shima",))),
        (INVESTOR, replace(LINEAGE, contributions=())),
        (INVESTOR, replace(LINEAGE, contributions=("c-unknown",))),
        (INVESTOR, NATIONAL),
        (replace(INVESTOR, contributions=frozenset()), LINEAGE),
        (replace(INVESTOR, contributions=frozenset({"c-shima"})), LINEAGE),
        (replace(INVESTOR, priority_class="public"), LINEAGE),
    ],
)
def test_no_contribution_no_priority(claim: Claim, lineage: Lineage) -> None:
    found = standing(register(), [claim], (), "kikai", lineage, NOW)
    assert (found.group, found.band) == ("open", 1)


def test_withdrawn_contribution_gives_no_priority_any_more() -> None:
    withdrawn = register(contributions=(contribution("c-kikai", KIKAI, withdrawn="2026-12-01T00:00:00Z"),))
    for at, group in (("2026-11-30T23:59:59Z", "priority"), ("2026-12-01T00:00:00Z", "open")):
        assert standing(withdrawn, [INVESTOR], (), "kikai", LINEAGE, us(at)).group == group


def test_weight_promised_for_own_models_counts_in_no_other_group() -> None:
    policy = a_policy(weights={"priority": 100, "open": 50, "internal": 1})
    claim = replace(INVESTOR, weight=40)
    found = standing(register(policies=[policy]), [claim], (), "kikai", NATIONAL, NOW)
    assert (found.group, found.weight) == ("open", 1)
    public = replace(PUBLIC, weight=40)
    assert standing(register(policies=[policy]), [public], (), "town", NATIONAL, NOW).weight == 40


def test_weight_above_the_policy_is_capped_and_told() -> None:
    found = standing(register(), [replace(INVESTOR, weight=1000)], (), "kikai", LINEAGE, NOW)
    assert found.weight == BUILT_IN.weights["priority"]
    assert [reason.code for reason in found.why][-1] == "capped"


def test_owner_with_priority_takes_nothing_from_the_floor_through_another_tenant() -> None:
    second = Claim(KIKAI, "kikai-2", "public", "public", 1)
    found = standing(register(), [INVESTOR, second], (), "kikai-2", LINEAGE, NOW)
    assert (found.group, found.weight) == ("priority", 10)


def test_only_a_licensee_of_the_house_is_served_last() -> None:
    internal = Claim("tenant:lab", "lab", "internal", "internal", 1)
    assert standing(register(), [internal], (), "lab", LINEAGE, NOW).group == "internal"
    pushed = replace(PUBLIC, priority_class="internal")  # R4: the floor is not a contract's to take
    assert standing(register(), [pushed], (), "town", LINEAGE, NOW).group == "open"


def test_claims_of_two_owners_are_no_standing() -> None:
    with pytest.raises(ValueError, match="2 owners"):
        standing(register(), [INVESTOR, PUBLIC], (), "kikai", LINEAGE, NOW)


def test_every_rule_and_reason_is_told_in_both_languages() -> None:
    assert list(RULES) == [f"R{number}" for number in range(1, 9)]
    entries: list[Mapping[Any, Any]] = [*RULES.values(), *REASONS.values()]
    for entry in entries:
        assert entry["en"].isascii()
        assert any("぀" <= letter <= "ヿ" for letter in entry["ja"])
    assert {entry["rule"] for entry in REASONS.values()} <= set(RULES)


def ask(tenant: str, version: str = "1.0.0") -> Ask:
    return Ask(tenant, MODEL, version, "chat", "general", "restricted", "JP", "jp-east", "heavy", "", False)


def test_exclusive_model_is_closed_to_others_and_opens_by_the_clock_alone() -> None:
    holder = licence(until="2026-12-01T00:00:00Z")
    other = licence("town", "7000012050002", named=(), models=(MODEL,), licensee_class="public")
    co_owner = licence("shima", SHIMA, named=("c-shima",))
    licences = stored(holder, other, co_owner)
    windows = windows_of(licences, register())
    index = compile_index(licences.values(), CATALOGUE, REGISTERS, windows)
    before, after = us("2026-11-30T23:59:59Z"), us("2026-12-01T00:00:00Z")
    decision = decide(index, ask("town"), before)
    assert (decision.refusal, decision.rule_id, decision.licence) == ("exclusive_to_another", "R2", "lic-town@1")
    assert decide(index, ask("town"), after).allowed
    for tenant in ("kikai", "shima"):  # the holder, and who has contributed to the model too
        assert decide(index, ask(tenant), before).allowed
    assert decide(index, ask("town", "1.1.0"), before).allowed  # a version without that lineage is open


def test_exclusive_model_is_listed_to_others_when_it_is_over() -> None:
    other = licence("town", "7000012050002", named=(), models=(MODEL,))
    licences = stored(licence(until="2026-12-01T00:00:00Z"), other)
    windows = windows_of(licences, register())
    index = compile_index(licences.values(), {MODEL: frozenset({"1.0.0"})}, REGISTERS, windows)
    assert models_of(index, "town", us("2026-11-30T23:59:59Z")) == []
    assert models_of(index, "town", us("2026-12-01T00:00:00Z")) == [MODEL]
    assert models_of(index, "kikai", us("2026-11-30T23:59:59Z")) == [MODEL]


def test_refusal_of_an_exclusive_model_does_not_tell_whose_it_is() -> None:
    licences = stored(licence(until="2026-12-01T00:00:00Z"), licence("town", "7000012050002", named=()))
    index = compile_index(licences.values(), CATALOGUE, REGISTERS, windows_of(licences, register()))
    decision = decide(index, ask("town"), NOW)
    assert "kikai" not in f"{decision.rule_id} {decision.licence} {decision.grant}".replace(MODEL, "")
    window = windows_of(licences, register())[0]
    found = standing(
        register(), [Claim("7000012050002", "town", "public", "public", 1)], [window], "town", LINEAGE, NOW
    )
    assert not found.open
    for language in LANGUAGES:
        told = " ".join(reason.text(language) for reason in found.why)
        assert KIKAI not in told and "2026-12-01" not in told


def test_window_of_a_stored_licence_never_passes_the_maximum() -> None:
    licences = stored(licence(until="2099-01-01T00:00:00Z"))
    assert [window.until for window in windows_of(licences, register())] == [us(A_YEAR_LATER)]
    short = register(policies=[a_policy(exclusivity_months_max=6, effective_from=us("2025-01-01T00:00:00Z"))])
    assert [window.until for window in windows_of(licences, short)] == [us("2026-09-01T00:00:00+09:00")]


@pytest.mark.parametrize("what", ["revoked", "no lineage", "base", "foreign basis", "not named", "withdrawn"])
def test_exclusivity_without_ground_has_no_effect(what: str) -> None:
    document = licence(until="2026-12-01T00:00:00Z", named=() if what == "not named" else ("c-kikai", "c-shima"),
                       basis="c-shima" if what == "foreign basis" else "c-kikai")  # fmt: skip
    lineage = {"no lineage": replace(LINEAGE, contributions=()), "base": replace(LINEAGE, origin="national_base")}
    withdrawn = (contribution("c-kikai", KIKAI, withdrawn="2025-12-31T00:00:00Z"),) if what == "withdrawn" else ()
    known = register(lineage.get(what, LINEAGE), contributions=withdrawn)
    assert windows_of(stored(document, revoked="kikai" if what == "revoked" else ""), known) == ()


@pytest.mark.parametrize(
    ("start", "months", "end"),
    [
        ("2026-03-01T00:00:00+09:00", 12, "2027-03-01T00:00:00+09:00"),
        ("2026-08-31T12:00:00+09:00", 6, "2027-02-28T12:00:00+09:00"),
        ("2028-02-29T00:00:00+09:00", 12, "2029-02-28T00:00:00+09:00"),
        ("2026-03-30T00:00:00+09:00", 1, "2026-04-30T00:00:00+09:00"),
        ("2026-12-31T23:59:59Z", 1, "2027-01-31T23:59:59Z"),  # 1 January in Japan, and so 1 February
        ("2026-03-01T00:00:00+09:00", 0, "2026-03-01T00:00:00+09:00"),
    ],
)
def test_months_are_those_of_the_calendar_in_japan(start: str, months: int, end: str) -> None:
    assert months_after(us(start), months) == us(end)


def refused(policy: Policy, before: Policy = BUILT_IN, now: int = NOW) -> str:
    try:
        check_policy(policy, before, now)
    except Finding as finding:
        for language in LANGUAGES:
            assert "R4" in finding.text(language) and finding.cure(language)
        return f"{finding.code} {finding.path}"
    return ""


def test_policy_that_breaks_the_floor_or_gives_no_notice_is_refused_by_its_rule() -> None:
    in_time = NOW + 30 * DAY_US
    assert refused(a_policy(effective_from=in_time)) == ""
    assert refused(a_policy(effective_from=in_time, floors={"open": 299})) == "floor_too_low floors.open"
    assert refused(a_policy(effective_from=in_time, floors={"priority": 700})) == "floor_too_low floors.open"
    whole = {"open": 300, "priority": 600, "internal": 101}
    assert refused(a_policy(effective_from=in_time, floors=whole)) == "floors_exceed_whole floors"
    assert refused(a_policy(effective_from=in_time, floors={**whole, "internal": 100})) == ""
    assert refused(a_policy(effective_from=in_time - 1)) == "notice_too_short effective_from"
    longer = a_policy(notice_days=60)
    assert refused(a_policy(effective_from=in_time), longer) == "notice_too_short effective_from"


OWNERS = st.sampled_from([KIKAI, SHIMA, "tenant:town"])
NAMES = st.sampled_from(["c0", "c1", "c2", "c3"])
TIMES = st.integers(0, 40)
CLASSES = st.sampled_from(["investor", "public", "research", "internal"])


@st.composite
def registers(draw: st.DrawFn) -> Register:
    names = draw(st.sets(NAMES))
    contributions = {
        name: Contribution(
            name, draw(OWNERS), draw(TIMES) * DAY_US, draw(st.none() | TIMES.map(lambda day: day * DAY_US))
        )
        for name in sorted(names)
    }
    lineages = [Lineage("m", "1", draw(st.sampled_from(["national_base", "derived"])), tuple(draw(st.sets(NAMES))))]
    begins = sorted(draw(st.lists(TIMES, max_size=3)))
    policies = [_a_random_policy(draw, number + 1, day * DAY_US) for number, day in enumerate(begins)]
    return Register(contributions, {("m", "1"): lineages[0]}, tuple(policies))


def _a_random_policy(draw: st.DrawFn, version: int, begins: int) -> Policy:
    weights = {group: draw(st.integers(1, 20)) for group in GROUPS}
    return Policy(version, begins, weights=weights, exclusivity_months_max=draw(st.integers(0, 2)))


@st.composite
def claims_of(draw: st.DrawFn, owner: str) -> list[Claim]:
    claim = st.builds(
        Claim, st.just(owner), st.sampled_from(["a", "b", "c"]), CLASSES, CLASSES, st.integers(1, 30),
        st.frozensets(NAMES),
    )  # fmt: skip
    return draw(st.lists(claim, min_size=1, max_size=5))


@given(st.data(), registers(), OWNERS, TIMES)
@settings(max_examples=2_000, deadline=None)
def test_priority_is_always_by_a_contribution_of_the_owner(
    data: st.DataObject, known: Register, owner: str, day: int
) -> None:
    claims = data.draw(claims_of(owner))
    lineage, at = known.lineages["m", "1"], day * DAY_US
    found = standing(known, claims, (), claims[0].tenant_id, lineage, at)
    ground = {
        name
        for claim in claims
        if claim.priority_class == "investor"
        for name in claim.contributions & set(lineage.contributions)
        if name in known.contributions
        and known.contributions[name].owner == owner
        and (known.contributions[name].withdrawn_at is None or at < known.contributions[name].withdrawn_at)  # type: ignore[operator]
    }
    if not ground:
        assert found.group != "priority"
    if found.group == "priority":
        assert any(name in found.why[0].text("en") for name in ground)


@given(st.data(), registers(), OWNERS, TIMES, st.integers(1, 6))
@settings(max_examples=2_000, deadline=None)
def test_weight_of_an_owner_does_not_grow_with_its_tenants(
    data: st.DataObject, known: Register, owner: str, day: int, copies: int
) -> None:
    claims = data.draw(claims_of(owner))
    lineage, at, tenant = known.lineages["m", "1"], day * DAY_US, claims[0].tenant_id
    alone = standing(known, claims, (), tenant, lineage, at)
    more = [*claims, *(replace(claim, tenant_id=f"{claim.tenant_id}{n}") for n in range(copies) for claim in claims)]
    among = standing(known, more, (), tenant, lineage, at)
    assert (among.group, among.weight, among.owner) == (alone.group, alone.weight, owner)
    for number in range(copies):
        assert standing(known, more, (), f"{tenant}{number}", lineage, at).weight == alone.weight


@given(st.data(), registers(), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
@settings(max_examples=2_000, deadline=None)
def test_time_ends_windows_and_begins_none_again(
    data: st.DataObject, known: Register, first: int, second: int, until: int
) -> None:
    begins = data.draw(st.integers(0, 40))
    document = licence(
        "a", data.draw(st.sampled_from([KIKAI, SHIMA])), named=tuple(data.draw(st.sets(NAMES))), models=("m",),
        until=_day(until), basis=data.draw(NAMES),
        validity={"not_before": _day(begins), "not_after": _day(begins + data.draw(st.integers(1, 60)))},
    )  # fmt: skip
    early, late = sorted((first, second))
    for window in windows_of(stored(document), known):
        assert window.since == begins * DAY_US
        assert window.runs(window.since) and window.runs(window.until - 1) and not window.runs(window.until)
        assert not (window.since <= early * DAY_US and window.runs(late * DAY_US) and not window.runs(early * DAY_US))
        latest = months_after(
            known.contributions[document.ip.exclusive[0].basis].contributed_at,
            known.policy_at(window.since).exclusivity_months_max,
        )
        assert window.until <= min(latest, until * DAY_US)


@given(st.dictionaries(st.sampled_from(GROUPS), st.integers(0, 1000)), st.integers(0, 120), st.integers(0, 90))
@settings(max_examples=2_000, deadline=None)
def test_accepted_policy_has_never_less_than_the_floor(floors: dict[str, int], days: int, notice: int) -> None:
    policy = a_policy(floors=floors, effective_from=NOW + days * DAY_US)
    accepted = refused(policy, a_policy(notice_days=notice)) == ""
    good = floors.get("open", 0) >= 300 and sum(floors.values()) <= 1000 and days >= notice
    assert accepted == good


def test_later_of_two_policies_that_begin_together_counts() -> None:
    known = register(policies=[a_policy(effective_from=5), a_policy(version=2, effective_from=5)])
    assert [known.policy_at(at).version for at in (4, 5, 6)] == [0, 2, 2]


def test_window_of_another_release_is_not_this_ones() -> None:
    window = Window(f"{MODEL}@9", KIKAI, frozenset({KIKAI}), 0, NOW + 1)
    assert standing(register(), [INVESTOR], [window], "kikai", LINEAGE, NOW).window is None


def _day(number: int) -> str:
    return datetime.fromtimestamp(number * 86_400, UTC).isoformat()
