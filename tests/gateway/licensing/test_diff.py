"""What changed between two licences, and a licence in words."""

from typing import Any

import pytest

from gateway.faults import Language
from gateway.licensing.describe import NOT_ENFORCED_YET, describe, printable
from gateway.licensing.diff import diff
from gateway.licensing.registers import REGISTERS
from tests.gateway.licensing.contracts import a_document, a_grant, parsed


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {change.path: (change.before, change.after) for change in diff(parsed(before), parsed(after))}


def test_licence_does_not_differ_from_itself_written_another_way() -> None:
    other = a_document(
        **{"grants.0.actions": ["embed", "completion", "chat"], "validity.not_before": "2026-03-31T15:00:00Z"}
    )
    del other["grants"][0]["zero_retention"]
    other["parent"] = None
    assert changes(a_document(), other) == {}


def test_each_changed_field_is_told_with_before_and_after() -> None:
    after = a_document(
        version=2, supersedes=1, **{"grants.0.quota.rpm": 50, "grants.0.purposes": ["general"], "duties": []}
    )
    assert changes(a_document(), after) == {
        "version": (1, 2),
        "supersedes": (None, 1),
        "grants[g1].purposes": (["development", "general", "production"], ["general"]),
        "grants[g1].quota.rpm": (100, 50),
        "duties": (a_document()["duties"], []),
    }


def test_clauses_are_matched_by_id_not_by_place() -> None:
    two = a_document(grants=[a_grant(id="a"), a_grant(id="b", rate_card="x")])
    turned = a_document(grants=[a_grant(id="b", rate_card="y"), a_grant(id="a")])
    assert changes(two, turned) == {"grants[b].rate_card": ("x", "y")}


def test_added_and_removed_clauses_are_told_field_by_field() -> None:
    added = changes(a_document(), a_document(grants=[a_grant(), a_grant(id="g2", actions=["batch"])]))
    assert added["grants[g2].actions"] == (None, ["batch"])
    assert added["grants[g2].quota.rpm"] == (None, 100)
    removed = changes(a_document(), a_document(prohibitions=[]))
    assert removed["prohibitions[p1].reason"] == ("not tested", None)


def lines(language: Language, **edits: Any) -> list[str]:
    return describe(parsed(a_document(**edits)), REGISTERS, language).splitlines()


def test_words_say_of_each_field_whether_it_is_enforced() -> None:
    english = lines("en")
    for said in (
        "requests per minute: 100  [enforced]",
        "tokens per minute: 1,000  [enforced]",
        "yen per month, warned at: 400  [enforced]",
        "yen per month, at most: 500  [enforced]",
        "priority: investor, 10  [not enforced yet]",
        "rate card: std  [enforced]",
        "kept for days: 30  [not enforced yet]",
        "redistribution: yes  [not enforced yet]",
        "EU AI Act Annex III: yes  [not enforced yet]",
        "zero retention: no  [enforced]",
        "processed in: JP, DE  [enforced]",
        "grace days: 14  [enforced]",
        "duty: mark outputs  [not enforced yet]",
        "exclusive: acme-7b, – 2026-12-01T00:00:00+00:00, vehicles, c1  [enforced]",
    ):
        assert any(line.strip() == said for line in english), said


def test_japanese_and_english_say_the_same_lines() -> None:
    japanese, english = lines("ja"), lines("en")
    assert len(japanese) == len(english)
    assert any("毎分リクエスト数: 100  [適用中]" in line for line in japanese)
    assert any("毎分トークン数: 1,000  [適用中]" in line for line in japanese)
    assert sum("未適用" in line for line in japanese) == sum("not enforced yet" in line for line in english)


@pytest.mark.parametrize("field", sorted(NOT_ENFORCED_YET))
def test_every_field_that_is_not_enforced_exists_in_a_document(field: str) -> None:
    node: Any = a_document()
    for step in field.split("."):
        node = node[step][0] if step == "grants" else node[step]
    assert node is not None


def test_words_cannot_move_the_cursor_or_turn_the_text() -> None:
    shown = describe(parsed(a_document(duties=[{"x": "\u001b[2J"}, "a\u202eb"])), REGISTERS, "ja")
    assert "\u001b" not in shown
    assert "\u202e" not in shown
    assert printable("株式会社　東京 x") == "株式会社　東京 x"
