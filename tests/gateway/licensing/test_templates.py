"""The standard licences: valid as they are, and filled in without losing their comments."""

from typing import Any

import pytest

from gateway.licensing.findings import Finding
from gateway.licensing.reading import read_document
from gateway.licensing.registers import REGISTERS
from gateway.licensing.semantics import check_meaning
from gateway.licensing.subset import check_subset
from gateway.licensing.templates import SHORT_NAMES, TEMPLATES, TemplateError, put, render, render_text
from tests.gateway.licensing.contracts import parsed


@pytest.mark.parametrize("template", TEMPLATES)
def test_template_is_a_valid_licence_with_comments_in_both_languages(template: str) -> None:
    check_meaning(parsed(render(template)), REGISTERS)
    comments = [line.partition("#")[2] for line in render_text(template, {}).splitlines() if "#" in line]
    assert any(comment.isascii() for comment in comments)
    assert sum(not comment.isascii() for comment in comments) > 5


def test_subcontractors_template_lies_within_the_investors() -> None:
    check_subset(parsed(render("subcontractor")), parsed(render("investor")))


def test_templates_differ_in_class_and_in_what_they_grant() -> None:
    rendered = {name: parsed(render(name)) for name in TEMPLATES}
    assert rendered["investor"].licensee.licensee_class == "investor"
    assert any(grant.priority for grant in rendered["investor"].grants)
    assert not any(grant.priority for name in ("public", "research") for grant in rendered[name].grants)
    assert "production" not in rendered["research"].grants[0].purposes
    assert rendered["research"].grants[0].data_classes == ["public"]
    assert rendered["subcontractor"].parent is not None


def test_values_are_set_by_short_name_and_by_path() -> None:
    document = render(
        "public", tenant="acme", legal_name="Acme 株式会社", models=["m@>=1"],
        **{"grants[0].quota.tpm": 5, "contract_ref": {"doc_sha256": "0" * 64, "signed_at": "2026-01-01T00:00:00Z"}},
    )  # fmt: skip
    assert document["licensee"]["tenant"] == "acme"
    assert document["licensee"]["legal_name"] == "Acme 株式会社"
    assert document["grants"][0]["models"] == ["m@>=1"]
    assert document["grants"][0]["quota"]["tpm"] == 5
    assert document["grants"][0]["quota"]["rpm"] == 600
    assert document["contract_ref"]["doc_sha256"] == "0" * 64


@pytest.mark.parametrize("template", TEMPLATES)
def test_setting_a_field_changes_that_field_only_and_keeps_every_comment(template: str) -> None:
    before = render(template)
    comments = render_text(template, {}).count("#")
    for name in SHORT_NAMES:
        value: Any = ["x"] if name == "models" else "x"
        text = render_text(template, {name: value})
        assert text.count("#") == comments
        after = read_document(text)
        assert after != before
        assert read_document(put(text, SHORT_NAMES[name], _at(before, SHORT_NAMES[name]))) == before


def _at(document: Any, path: str) -> Any:
    for step in path.replace("[", ".").replace("]", "").split("."):
        document = document[int(step)] if step.isdigit() else document[step]
    return document


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("a", 1, {"a": 1, "b": {"c": [1, 2]}, "d": ["x", "y"], "e": {}}),
        ("b.c[1]", 3, {"a": "old", "b": {"c": [1, 3]}, "d": ["x", "y"], "e": {}}),
        ("b.c[2]", 3, {"a": "old", "b": {"c": [1, 2, 3]}, "d": ["x", "y"], "e": {}}),
        ("b.n.m", "v", {"a": "old", "b": {"n": {"m": "v"}, "c": [1, 2]}, "d": ["x", "y"], "e": {}}),
        ("b", None, {"a": "old", "b": None, "d": ["x", "y"], "e": {}}),
        ("d", ["日本"], {"a": "old", "b": {"c": [1, 2]}, "d": ["日本"], "e": {}}),
        ("d[0]", "# no comment", {"a": "old", "b": {"c": [1, 2]}, "d": ["# no comment", "y"], "e": {}}),
        ("e.f", True, {"a": "old", "b": {"c": [1, 2]}, "d": ["x", "y"], "e": {"f": True}}),
        ("z", {"k": []}, {"z": {"k": []}, "a": "old", "b": {"c": [1, 2]}, "d": ["x", "y"], "e": {}}),
    ],
)
def test_value_is_put_at_its_place(path: str, value: Any, expected: Any) -> None:
    text = "a: old  # one\nb:\n  # two\n  c: [1, 2]\nd:  # three\n  - x\n  - y  # four\n# five\ne: {}\n"
    assert read_document(put(text, path, value)) == expected


@pytest.mark.parametrize("path", ["", "a..b", "b.c[9]", "a.b", "d[x]", "b.c.d"])
def test_path_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(TemplateError):
        put("a: old\nb:\n  c: [1, 2]\nd:\n  - x\n", path, 1)


def test_unknown_template_is_refused() -> None:
    with pytest.raises(TemplateError, match="investor"):
        render("friend")


def test_value_that_breaks_the_document_is_found_when_it_is_read() -> None:
    with pytest.raises(Finding) as raised:
        parsed(render("public", **{"grants[0].quota.rpm": "many"}))
    assert (raised.value.code, raised.value.path) == ("schema_invalid", "grants[0].quota.rpm")
