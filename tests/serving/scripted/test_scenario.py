"""A scenario file is read strictly: what is wrong is named, and so is the cure."""

from pathlib import Path

import pytest
from msgspec import Struct

from serving.scripted.scenario import (
    DEFAULT_FILE,
    Deltas,
    FaultBase,
    Scenario,
    ScenarioError,
    Split,
    ToolScript,
    load_scenarios,
    parse_scenarios,
)


def parse_model(body: str) -> Scenario:
    return parse_scenarios(f"version: 1\nmodels: {{m: {body}}}")["m"]


def refused(text: str) -> ScenarioError:
    with pytest.raises(ScenarioError) as caught:
        parse_scenarios(text)
    return caught.value


def refused_model(body: str) -> ScenarioError:
    with pytest.raises(ScenarioError) as caught:
        parse_model(body)
    return caught.value


def test_the_built_in_file_has_a_model_for_each_kind_and_each_fault() -> None:
    models = load_scenarios(DEFAULT_FILE)
    assert {"scripted-small", "scripted-reasoning", "scripted-tools", "scripted-slow"} <= set(models)
    shown = {type(fault) for scenario in models.values() for fault in scenario.faults}
    assert shown == set(FaultBase.__subclasses__())


@pytest.mark.parametrize(
    ("body", "field", "problem", "cure"),
    [
        ("{text: a, speed: 3}", "models.m.speed", "unknown field", "Known fields: cached_tokens"),
        ("{text: a, token_per_s: 3}", "models.m.token_per_s", "unknown field", "Did you mean tokens_per_s?"),
        ("{text: a, tokens_per_s: fast}", "models.m.tokens_per_s", "expected `float`", "0 for no pacing"),
        ("{text: a, tokens_per_s: -1}", "models.m.tokens_per_s", ">= 0", "0 for no pacing"),
        ("{text: a, max_num_seqs: 0}", "models.m.max_num_seqs", ">= 1", "choices generated at the same time"),
        ("{text: a, max_num_seqs: true}", "models.m.max_num_seqs", "expected `int`", "choices generated"),
        ("{}", "models.m.text", "missing field", "a text"),
        ("{text: 7}", "models.m.text", "expected `str | object | array`", "a text"),
        ("{text: ''}", "models.m.text[0]", "empty text", "at least one character"),
        ("{text: []}", "models.m.text", "empty list", "at least one text"),
        ("{text: [a, 3]}", "models.m.text[1]", "expected `str | object`", "a text"),
        ("{text: {deltas: []}}", "models.m.text.deltas", "length >= 1", "the deltas in order"),
        ("{text: {delta: [a]}}", "models.m.text.delta", "unknown field", "Did you mean deltas?"),
        ("{text: a, split: {chars: 2}}", "models.m.split.chars", "unknown field", "chars_per_token"),
        ("{text: a, faults: [{kind: explode}]}", "models.m.faults[0].kind", "invalid value", "fault kinds"),
        ("{text: a, faults: [{status: 500}]}", "models.m.faults[0].kind", "missing", "fault kinds"),
        ("{text: a, faults: [{kind: refuse, status: 200}]}", "models.m.faults[0].status", ">= 400", "400 to 599"),
        ("{text: a, faults: [{kind: drop, where: roof}]}", "models.m.faults[0].where", "invalid", "headers or stream"),
        ("{text: a, tool_calls: [{nome: f}]}", "models.m.tool_calls[0].nome", "unknown field", "Did you mean name?"),
        ("just text", "models.m", "expected `object`", "at least text"),
    ],
)
def test_a_mistake_in_a_model_names_field_problem_and_cure(body: str, field: str, problem: str, cure: str) -> None:
    error = refused_model(body)
    assert error.field == field
    assert problem in error.problem
    assert cure in error.cure


@pytest.mark.parametrize(
    ("text", "field", "cure"),
    [
        ("", "the file", "version: 1"),
        ("- a", "the file", "version: 1"),
        ("version: 1\nmodels: [", "line", "syntax"),
        ("version: 2\nmodels: {m: {text: a}}", "version", "version: 1"),
        ("version: true\nmodels: {m: {text: a}}", "version", "version: 1"),
        ("models: {m: {text: a}}", "version", "version: 1"),
        ("version: 1", "models", "models: {name"),
        ("version: 1\nmodels: {}", "models", "models: {name"),
        ("version: 1\nmodels: {7: {text: a}}", "models", "quotes"),
        ("version: 1\nextra: 1\nmodels: {m: {text: a}}", "extra", "nothing else"),
        ("version: 1\nmodels:\n  m: {text: a}\n  m: {text: b}", "m", "Keep one"),
        ("version: 1\nmodels: {m: {text: a, text: b}}", "text", "Keep one"),
    ],
)
def test_a_mistake_in_the_file_names_the_place_and_cure(text: str, field: str, cure: str) -> None:
    error = refused(text)
    assert error.field.startswith(field)
    assert cure in error.cure


def test_a_file_that_cannot_be_read_is_a_scenario_error(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="readable"):
        load_scenarios(tmp_path / "missing.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("version: 1 # caf\xe9".encode("latin-1"))
    with pytest.raises(ScenarioError, match="UTF-8"):
        load_scenarios(latin)


def test_every_field_is_described_in_the_readme() -> None:
    readme = DEFAULT_FILE.with_name("README.md").read_text(encoding="utf-8")
    structs: list[type[Struct]] = [Scenario, Split, ToolScript, Deltas, *FaultBase.__subclasses__()]
    missing = {field for struct in structs for field in struct.__struct_fields__ if f"`{field}`" not in readme}
    kinds = {str(fault.__struct_config__.tag) for fault in FaultBase.__subclasses__()}
    assert not missing
    assert all(f"`{kind}`" in readme for kind in kinds)
