"""Files of tenants: read without YAML's surprises, and every problem told with file, line, column and field."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.control.code_files import dumped, load

GOOD = """\
v: 1
tenants:
  - tenant_id: acme
    legal_name: アクメ株式会社
    tokens_month: 1000
    micro_yen_month: 1000
    rpm: 60
    concurrency: 4
    keys:
      - label: app
"""


def written(folder: Path, **files: str) -> Path:
    """The folder with files of these names and texts."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def told(folder: Path) -> list[tuple[str, int, int, str, str]]:
    """File, line, column, field and code of every problem."""
    places = []
    for problem in load(folder, "en").problems:
        place = problem.place
        places.append((place.file.name, place.line, place.column, place.field, problem.code))
    return places


def test_good_files_are_joined(tmp_path: Path) -> None:
    files = load(written(tmp_path, a=GOOD, b=GOOD.replace("acme", "beta"), c="rate_cards: []\n"), "en")
    assert files.problems == []
    assert [tenant["tenant_id"] for tenant in files.tree["tenants"]] == ["acme", "beta"]
    assert files.tree["rate_cards"] == []
    assert "upstreams" not in files.tree  # a part that no file speaks of is left alone


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (("    rpm: 60\n", "    rpm: sixty\n"), (7, 10, "tenants[0].rpm", "invalid_type")),
        (("    rpm: 60\n", "    rpm: -1\n"), (7, 10, "tenants[0].rpm", "invalid_value")),
        (("    rpm: 60\n", "    rpm: 60\n    color: red\n"), (8, 5, "tenants[0].color", "unknown_field")),
        (("    rpm: 60\n", ""), (3, 5, "tenants[0].rpm", "missing_parameter")),
        (("label: app", "label: app\n        purpose: fun"), (11, 18, "tenants[0].keys[0].purpose", "invalid_value")),
        (("label: app", "lable: app"), (10, 9, "tenants[0].keys[0].lable", "unknown_field")),
        (("label: app", "state: gone"), (10, 16, "tenants[0].keys[0].state", "invalid_value")),
        (("tenant_id: acme", "tenant_id: ACME"), (3, 16, "tenants[0].tenant_id", "invalid_value")),
        (("tenants:", "tennants:"), (2, 1, "tennants", "unknown_field")),
        (("v: 1", "v: 2"), (1, 4, "v", "invalid_value")),
        (("    rpm: 60\n", "    rpm: 60\n    rpm: 61\n"), (8, 5, "", "invalid_yaml")),
        (("tenant_id: acme", "tenant_id: &a acme"), None),
        (("label: app", "label: *a"), (10, 16, "", "invalid_yaml")),
        (("label: app", "label: !!python/object:os.system app"), (10, 16, "", "invalid_yaml")),
        (("    keys:\n", "    keys: {\n"), (10, 7, "", "invalid_yaml")),
        (("    keys:\n      - label: app\n", "    licences: [{file: none.dsse.json}]\n"),
         (9, 23, "tenants[0].licences[0].file", "invalid_value")),
        (("    keys:\n      - label: app\n", "    licences: [{files: x}]\n"),
         (9, 16, "tenants[0].licences[0].envelope", "missing_parameter")),
    ],
)  # fmt: skip
def test_problem_is_told_at_its_place(tmp_path: Path, change: tuple[str, str], place: Any) -> None:
    assert change[0] in GOOD
    found = told(written(tmp_path, acme=GOOD.replace(*change)))
    assert found[:1] == ([] if place is None else [("acme.yaml", *place)])


def test_every_problem_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    bad = GOOD.replace("rpm: 60", "rpm: x").replace("label: app", "label: app\n        rpm: -1")
    found = told(written(tmp_path, a=bad, b=GOOD.replace("acme", "Beta"), c="tenants: 3\n", d="- 1\n"))
    assert found == [
        ("c.yaml", 1, 10, "tenants", "invalid_type"),
        ("d.yaml", 1, 1, "", "invalid_type"),
        ("a.yaml", 7, 10, "tenants[0].rpm", "invalid_type"),
        ("a.yaml", 11, 14, "tenants[0].keys[0].rpm", "invalid_value"),
        ("b.yaml", 3, 16, "tenants[0].tenant_id", "invalid_value"),
    ]


def test_tenant_of_two_files_is_told_at_the_second(tmp_path: Path) -> None:
    assert told(written(tmp_path, a=GOOD, b="v: 1\n\n" + GOOD[5:])) == [
        ("b.yaml", 4, 16, "tenants[0].tenant_id", "already_exists")
    ]


@pytest.mark.parametrize("part", ["trust_keys", "upstreams"])
def test_refused_part_without_entries_is_told_at_its_name(tmp_path: Path, part: str) -> None:
    files = load(written(tmp_path, a=GOOD, b=f"v: 1\n\n{part}: []\n"), "en")
    place = files.place(part, "permission_denied")
    assert (place.file.name, place.line, place.column, place.field) == ("b.yaml", 3, 1, part)
    whole = files.place("", "invalid_type")
    assert (whole.file.name, whole.line, whole.column) == ("a.yaml", 1, 1)


def test_scalars_are_what_they_look_like(tmp_path: Path) -> None:
    text = GOOD.replace("label: app", "label: NO\n        expires_at: 2099-01-01T00:00:00+09:00")
    files = load(written(tmp_path, acme=text), "en")
    assert files.problems == []
    assert files.tree["tenants"][0]["keys"] == [{"label": "NO", "expires_at": "2099-01-01T00:00:00+09:00"}]


def test_thousand_fold_aliases_and_deep_nesting_end_at_once(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\ntenants: [*b, *b]\n"
    deep = "tenants: " + "[" * 5_000 + "]" * 5_000 + "\n"
    assert [code for *_, code in told(written(tmp_path, bomb=bomb, deep=deep))] == ["invalid_yaml", "invalid_yaml"]


def test_folder_without_files_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path, "en")


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp", "Cs"]), max_size=30)


@settings(max_examples=2_000, deadline=None)
@given(name=TEXTS, label=st.one_of(TEXTS, st.sampled_from(["NO", "yes", "1", "08", "1e3", "~", "null", "2026-01-01"])))
def test_what_is_written_down_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, name: str, label: str
) -> None:
    tenant = {"tenant_id": "acme", "legal_name": name, "rpm": 3, "keys": [{"label": label, "expires_at": None}]}
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(dumped({"v": 1, "tenants": [tenant]}), encoding="utf-8")
    assert load(file, "en").tree["tenants"] == [tenant]
