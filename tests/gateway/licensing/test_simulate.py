"""Recorded decisions replayed against other licences."""

from typing import Any

from msgspec.structs import replace

from gateway.licensing.decide import decide
from gateway.licensing.simulate import Change, Recorded, Verdict, render, simulate
from tests.gateway.licensing.contracts import a_document, a_grant
from tests.gateway.licensing.test_decide import ASK, NOW, an_index

PERMITTED = Verdict("", "lic-acme/g1")


def recorded(n: int = 1, verdict: Verdict = PERMITTED, at: int = NOW, **changes: Any) -> Recorded:
    return Recorded(replace(ASK, **changes), at, verdict, n)


def test_licence_that_is_not_changed_changes_nothing() -> None:
    index = an_index(a_document())
    asks = [ASK, replace(ASK, purpose="medical"), replace(ASK, region="jp-north"), replace(ASK, model="other")]
    told = [decide(index, ask, NOW) for ask in asks]
    history = [Recorded(ask, NOW, Verdict(one.refusal, one.rule_id)) for ask, one in zip(asks, told, strict=True)]
    assert simulate(history, index) == []


def test_equal_questions_are_counted_together_and_lost_permissions_come_first() -> None:
    narrower = an_index(a_document(version=2, grants=[a_grant(purposes=["development", "medical"])]))
    refused = Verdict("purpose_not_licensed", "lic-acme/g1")
    history = [
        recorded(3), recorded(4, at=NOW + 5), recorded(50, refused, purpose="medical"), recorded(purpose="development"),
        recorded(2, region="jp-west"),
    ]  # fmt: skip
    assert simulate(history, narrower) == [
        Change(ASK, PERMITTED, refused, 7),
        Change(replace(ASK, region="jp-west"), PERMITTED, refused, 2),
        Change(replace(ASK, purpose="medical"), refused, PERMITTED, 50),
    ]


def test_kinds_of_change_are_told_apart() -> None:
    index = an_index(a_document(grants=[a_grant(id="g2"), a_grant(id="g3", models=["acme-7b"], purposes=["legal"])]))
    history = [
        recorded(), recorded(purpose="medical"), recorded(verdict=Verdict("no_grant", "")),
        recorded(verdict=Verdict("no_grant", ""), purpose="medical"),
    ]  # fmt: skip
    assert [change.kind for change in simulate(history, index)] == ["lost", "gained", "other_refusal", "other_rule"]


def test_each_question_is_asked_at_its_own_time_unless_another_is_given() -> None:
    tomorrow = an_index(a_document(**{"version": 2, "validity.not_before": "2026-11-25T00:00:00+09:00"}))
    assert [change.after.refusal for change in simulate([recorded()], tomorrow)] == ["licence_not_yet_valid"]
    assert simulate([recorded()], tomorrow, at=NOW + 2 * 86_400_000_000) == []


def test_changes_are_shown_in_both_languages_with_rule_and_number() -> None:
    changes = simulate([recorded(12, adapter="a1")], an_index(a_document(grants=[a_grant(adapters=[])])))
    english, japanese = render(changes, 40, "en"), render(changes, 40, "ja")
    head, line = english.splitlines()
    assert head.startswith("12 of 40 recorded decisions would change: 12 permissions lost, 0 gained,")
    assert line.startswith(
        "12 × acme: chat base-7b@2.1.0 + a1, purpose general, data class restricted, JP/jp-east/heavy:"
    )
    assert line.endswith("permitted lic-acme/g1 → refused (adapter_not_licensed) lic-acme/g1")
    assert "40件のうち12件" in japanese
    assert "許可 lic-acme/g1 → 拒否（adapter_not_licensed） lic-acme/g1" in japanese
