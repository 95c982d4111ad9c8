"""The document's form: strict structs, and the published schema that says the same."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from gateway.licensing import findings as findings_module
from gateway.licensing.document import GrantClause
from gateway.licensing.findings import FINDINGS, Finding
from gateway.licensing.reading import read_document
from gateway.licensing.registers import DIMENSIONS, REGISTERS
from gateway.licensing.schema import schema_text
from gateway.licensing.semantics import hojin_bangou_is_valid
from tests.gateway.licensing.contracts import a_child, a_document, changed, parsed
from tests.gateway.licensing.test_envelope import leaves

ROOT = Path(__file__).parents[3]
SCHEMA = jsonschema_rs.validator_for(json.loads(schema_text()))


def refusal(document: dict[str, Any]) -> tuple[str, str]:
    try:
        parsed(document)
    except Finding as finding:
        return finding.code, finding.path
    return "", ""


def test_published_schema_is_the_one_of_the_code() -> None:
    assert (ROOT / "docs" / "licence.schema.json").read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize("document", [a_document(), a_child()])
def test_schema_accepts_what_the_code_reads(document: dict[str, Any]) -> None:
    assert SCHEMA.is_valid(document)
    assert refusal(document) == ("", "")


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"v": 2}, "v"),
    ({"version": "1"}, "version"),
    ({"version": 0}, "version"),
    ({"version": 1.5}, "version"),
    ({"version": True}, "version"),
    ({"supersedes": 0}, "supersedes"),
    ({"licence_id": "x" * 33}, "licence_id"),
    ({"licence_id": "a/b"}, "licence_id"),
    ({"licence_id": "a\n"}, "licence_id"),
    ({"issuer": ""}, "issuer"),
    ({"issuer": "a\u001b[2J"}, "issuer"),
    ({"licensee.tenant": "Acme"}, "licensee.tenant"),
    ({"licensee.class": "friend"}, "licensee.class"),
    ({"licensee.country": "Japan"}, "licensee.country"),
    ({"licensee.role": "owner"}, "licensee.role"),
    ({"validity.grace_days": 91}, "validity.grace_days"),
    ({"validity.notice_days": -1}, "validity.notice_days"),
    ({"contract_ref.doc_sha256": "AB" * 32}, "contract_ref.doc_sha256"),
    ({"grants": []}, "grants"),
    ({"grants.0.actions": ...}, "grants[0].actions"),
    ({"grants.0.actions": []}, "grants[0].actions"),
    ({"grants.0.models": []}, "grants[0].models"),
    ({"grants.0.purposes": []}, "grants[0].purposes"),
    ({"grants.0.id": "x" * 25}, "grants[0].id"),
    ({"grants.0.quota.rpm": -1}, "grants[0].quota.rpm"),
    ({"grants.0.quota.rpm": 2**53}, ""),
    ({"grants.0.quota.tokens": 1}, "grants[0].quota.tokens"),
    ({"grants.0.priority.weight": 0}, "grants[0].priority.weight"),
    ({"prohibitions.0.match.models": []}, "prohibitions[0].match.models"),
    ({"prohibitions.0.reason": ""}, "prohibitions[0].reason"),
    ({"delegation.max_depth": 9}, "delegation.max_depth"),
    ({"personal_data.training_use": True}, "personal_data.training_use"),
    ({"personal_data.processing_countries": []}, "personal_data.processing_countries"),
    ({"duties": [7]}, "duties[0]"),
]


@pytest.mark.parametrize(("changes", "path"), BROKEN)
def test_form_that_is_wrong_is_refused_with_its_field_by_code_and_schema(changes: dict[str, Any], path: str) -> None:
    document = a_document(**changes)
    assert refusal(document) == ("not_canonical" if path == "" else "schema_invalid", path)
    assert not SCHEMA.is_valid(document)


@pytest.mark.parametrize("text", ["2026-04-01T00:00:00", "2026-04-01", "yesterday", "2026-13-01T00:00:00Z", ""])
@pytest.mark.parametrize("path", ["validity.not_before", "validity.not_after", "contract_ref.signed_at"])
def test_time_without_an_offset_is_refused(path: str, text: str) -> None:
    assert refusal(a_document(**{path: text})) == ("schema_invalid", path)


def objects() -> list[str]:
    return [
        "",
        *(path for path, value in leaves(a_child()) if isinstance(value, dict) and not path.startswith("duties")),
    ]


@pytest.mark.parametrize("path", objects())
def test_no_part_takes_a_member_it_does_not_know(path: str) -> None:
    name = f"{path}.surprise".lstrip(".")
    code, where = refusal(changed(a_child(), {name: 1}))
    assert (code, where) == ("schema_invalid", re.sub(r"\.(\d+)", r"[\1]", name))


def test_grant_says_nothing_of_training_and_no_document_can_allow_it() -> None:
    assert "training" not in " ".join(GrantClause.__struct_fields__)
    assert refusal(a_document(**{"personal_data.training_use": True}))[0] == "schema_invalid"


def test_corporate_number_is_checked_by_its_check_digit() -> None:
    for number in ("8700110005901", "5835678256246", "7000012050002"):
        assert hojin_bangou_is_valid(number)
        for place, digit in enumerate(number):
            # 9 for 0 weighs the same modulo 9: this check digit cannot tell them apart.
            wrong = str(int(digit) - 1 if digit in "89" else int(digit) + 1)
            assert not hojin_bangou_is_valid(number[:place] + wrong + number[place + 1 :])
    assert not hojin_bangou_is_valid("1234567890123")


def test_registers_hold_every_dimension_with_titles_in_both_languages() -> None:
    for dimension in DIMENSIONS:
        assert REGISTERS.codes(dimension)
        for code in REGISTERS.codes(dimension):
            assert REGISTERS.title(dimension, code, "ja") != code
            assert REGISTERS.title(dimension, code, "en") != code
            parsed(a_document(**{f"prohibitions.0.match.{dimension}": [code]}))
    assert {"chat", "completion", "embed", "batch"} <= REGISTERS.actions
    assert REGISTERS.data_classes == {"public", "restricted", "secret"}
    assert REGISTERS.tiers == {"heavy", "edge"}


def test_every_finding_has_texts_and_a_cure_in_both_languages_and_is_raised_somewhere() -> None:
    room = Path(findings_module.__file__).parents[1]
    folders = (room / "licensing", room / "priority")
    source = "\n".join(path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("*.py"))
    for code, entry in FINDINGS.items():
        assert f'"{code}"' in source, f"{code} is never raised"
        assert all(re.search(r"[ぁ-んァ-ヶ]", text) for text in (entry.ja, entry.cure_ja))
        assert all(text.isascii() or "…" in text for text in (entry.en, entry.cure_en))


def test_every_finding_is_documented() -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    table = page.partition("## Findings")[2].partition("\n# ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert documented == set(FINDINGS)


def test_every_code_of_the_registers_is_documented() -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    assert f"Version {REGISTERS.version}." in page
    for dimension in DIMENSIONS:
        [line] = re.findall(rf"^- `{dimension}`: (.*)$", page, re.MULTILINE)
        assert set(re.findall(r"`([^`]+)`", line)) == REGISTERS.codes(dimension)


def test_finding_names_field_and_what_was_seen_without_reading_braces_in_it() -> None:
    finding = Finding("unknown_code", "grants[0].purposes[1]", "{path}{x}")
    assert finding.text("en") == "grants[0].purposes[1] names {path}{x}, which the register does not know."
    assert "全体" in Finding("malformed_envelope", "", "x").text("ja")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "line 2, column 1: the key a is written twice"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("a: !!python/object:os.system x\n", "tags"),
        ("- 1\n", "not a mapping"),
        ("7: x\n", "not a name"),
        ("a: [1\n", "line 2"),
        ("a: " + "[" * 40 + "]" * 40, "nested too deep"),
        ('{"a": 1, "a": 2}', "Detected duplicate key"),
        ("\x00", "special characters"),
    ],
)
def test_text_that_is_no_document_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(Finding, match=re.escape(said)) as raised:
        read_document(text)
    assert raised.value.code == "schema_invalid"


def test_yaml_is_read_without_its_surprises() -> None:
    text = "country: NO\nat: 2026-04-01T00:00:00+09:00\nfraction: 1.5\noctal: 010\nnone: null\nyes: true\nn: -7\n"
    assert read_document(text) == {
        "country": "NO", "at": "2026-04-01T00:00:00+09:00", "fraction": "1.5", "octal": "010", "none": None,
        "yes": True, "n": -7,
    }  # fmt: skip
