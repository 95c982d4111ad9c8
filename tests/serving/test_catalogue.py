"""The catalogue is parsed into frozen values, or refused with code, field, reason and cure."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving import catalogue
from serving.catalogue import parse
from serving.strict import CatalogueRefused

SHIPPED = Path(catalogue.__file__).with_name("catalogue.yaml")
ROOT = SHIPPED.parents[1]


def entry(**changes: Any) -> dict[str, Any]:
    """A text model that is accepted; a change to None removes the field."""
    model: dict[str, Any] = {
        "id": "tiny",
        "source": {"kind": "built", "location": "smollm2-135m"},
        "tier": "heavy",
        "region": "jp-east",
        "site": "local",
        "modalities": ["text"],
        "context_tokens": 2048,
        "max_output_tokens": 512,
        "template_overhead_tokens": 96,
        "message_overhead_tokens": 8,
        "resources": {"accelerator": "cpu", "kv_cache_gib": 1},
    }
    model.update(changes)
    return {name: value for name, value in model.items() if value is not None}


def text_of(*entries: dict[str, Any], **top: Any) -> str:
    return yaml.safe_dump({"version": 1, "models": list(entries), **top})


def refusal(text: str) -> CatalogueRefused:
    with pytest.raises(CatalogueRefused) as caught:
        parse(text)
    return caught.value


def test_shipped_catalogue_is_good_and_its_first_model_is_the_text_model() -> None:
    models = catalogue.load(SHIPPED).models
    assert [model.id for model in models] == ["smollm2-135m", "smollm2-135m-llava"]
    assert models[0].modalities == ("text",)
    assert models[1].image_tokens == 65


def test_parsed_values_cannot_be_changed() -> None:
    model = parse(text_of(entry())).models[0]
    for value in (model, model.engine, model.serve, model.resources, model.source):
        field = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, None)
        assert not hasattr(value, "__dict__")


def test_unset_fields_get_finite_queues() -> None:
    serve = parse(text_of(entry())).models[0].serve
    assert (serve.max_ongoing_requests, serve.target_ongoing_requests, serve.max_queued_requests) == (64, 32, 64)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scheduling_policy", "fcfs"),
        ("enable_force_include_usage", False),
        ("enable_prompt_tokens_details", False),
        ("allowed_local_media_path", "/srv/media"),
        ("allowed_media_domains", ["example.com"]),
        ("trust_remote_code", True),
        ("enable_log_requests", True),
        ("disable_log_stats", True),
        ("enable_force_include_usage", 1),  # a number that Python takes for true
    ],
)
def test_unsafe_engine_value_is_refused_with_reason_and_cure(field: str, value: object) -> None:
    found = refusal(text_of(entry(engine={field: value})))
    assert (found.code, found.field) == ("unsafe_value", f"models[0].engine.{field}")
    assert "would" in found.reason
    assert "leave the field out" in found.cure


def test_batching_of_tokens_is_refused() -> None:
    found = refusal(text_of(entry(serve={"stream_batching_interval_ms": 50})))
    assert (found.code, found.field) == ("unsafe_value", "models[0].serve.stream_batching_interval_ms")


@pytest.mark.parametrize("name", sorted(catalogue.NEVER_PASSED))
def test_parameter_that_no_client_may_set_is_refused_as_extra(name: str) -> None:
    found = refusal(text_of(entry(extra_params=["top_k", name])))
    assert (found.code, found.field) == ("unsafe_value", "models[0].extra_params")
    assert name in found.reason


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("serve", "max_ongoing_requests", 10**9),
        ("serve", "max_ongoing_requests", 0),
        ("serve", "target_ongoing_requests", 65),  # above max_ongoing_requests: would never scale
        ("serve", "max_queued_requests", -1),  # Ray's word for "no limit"
        ("engine", "shutdown_timeout_s", 0),  # vLLM's word for "cut everything"
        ("engine", "shutdown_timeout_s", 60),  # longer than a stop may take
        ("engine", "image_limit", 1),  # on a text model
    ],
)
def test_number_outside_its_range_is_refused(section: str, field: str, value: int) -> None:
    found = refusal(text_of(entry(**{section: {field: value}})))
    assert (found.code, found.field) == ("out_of_range", f"models[0].{section}.{field}")


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"regoin": "jp-east"}, "unknown_field", "models[0].regoin"),
        ({"engine": {"max_num_seq": 4}}, "unknown_field", "models[0].engine.max_num_seq"),
        ({"engine": {"allow_credentials": True}}, "unknown_field", "models[0].engine.allow_credentials"),
        ({"tier": None}, "missing_field", "models[0].tier"),
        ({"tier": "medium"}, "out_of_range", "models[0].tier"),
        ({"region": False}, "wrong_type", "models[0].region"),  # YAML's `no`
        ({"region": "JP East"}, "out_of_range", "models[0].region"),
        ({"context_tokens": True}, "wrong_type", "models[0].context_tokens"),
        ({"context_tokens": "2048"}, "wrong_type", "models[0].context_tokens"),
        ({"max_output_tokens": 2048}, "out_of_range", "models[0].max_output_tokens"),
        ({"modalities": ["image"]}, "out_of_range", "models[0].modalities"),
        ({"modalities": ["text", "smell"]}, "out_of_range", "models[0].modalities"),
        ({"modalities": ["text", "text"]}, "out_of_range", "models[0].modalities"),
        ({"modalities": ["text", "image"]}, "missing_field", "models[0].image_tokens"),
        ({"image_tokens": 64}, "out_of_range", "models[0].image_tokens"),
        ({"source": "hub"}, "wrong_type", "models[0].source"),
        ({"source": {"kind": "hub", "location": "a/b"}}, "out_of_range", "models[0].source.kind"),
        ({"source": {"kind": "path", "location": "models/a"}}, "out_of_range", "models[0].source.location"),
        ({"source": {"kind": "built", "location": "../x"}}, "out_of_range", "models[0].source.location"),
        ({"resources": {"accelerator": "cpu"}}, "missing_field", "models[0].resources.kv_cache_gib"),
        (
            {"resources": {"accelerator": "cpu", "kv_cache_gib": 1, "accelerator_type": "H100"}},
            "out_of_range",
            "models[0].resources.accelerator_type",
        ),
    ],
)
def test_wrong_entry_is_refused_at_its_field(changes: dict[str, Any], code: str, field: str) -> None:
    found = refusal(text_of(entry(**changes)))
    assert (found.code, found.field) == (code, field)
    assert found.cure


def test_misspelt_field_is_refused_with_the_field_that_was_meant() -> None:
    assert refusal(text_of(entry(regoin="jp-east"))).cure == "did you mean region?"


def test_second_model_of_one_id_is_refused() -> None:
    found = refusal(text_of(entry(), entry()))
    assert (found.code, found.field) == ("duplicate_model", "models[1].id")


def test_key_that_stands_twice_is_refused_with_its_line() -> None:
    found = refusal("version: 1\nmodels: []\nversion: 1\n")
    assert (found.code, found.field) == ("duplicate_key", "line 3")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("models: [", "unreadable"),
        ("!!python/object/apply:os.getcwd []", "unreadable"),
        ("[" * 5000, "unreadable"),
        ("", "wrong_type"),
        ("version: 2\nmodels: [{}]\n", "out_of_range"),
        ("version: 1\nmodels: []\n", "out_of_range"),
        ("version: 1\nmodels: [1]\n", "wrong_type"),
    ],
)
def test_text_that_is_no_catalogue_is_refused(text: str, code: str) -> None:
    assert refusal(text).code == code


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueRefused) as caught:
        catalogue.load(tmp_path / "none.yaml")
    assert caught.value.code == "unreadable"


def test_unknown_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match="known are tiny"):
        parse(text_of(entry())).model("huge")


def test_command_prints_the_catalogue_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert catalogue.main([str(SHIPPED), "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert models[0]["id"] == "smollm2-135m"
    assert models[0]["engine"]["max_num_seqs"] == 16
    assert "top_k" in models[0]["extra_params"]


def test_command_prints_one_line_and_exits_1_when_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "catalogue.yaml"
    file.write_text(text_of(entry(tier="medium")), encoding="utf-8")
    assert catalogue.main([str(file), "--json"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("catalogue refused: out_of_range at models[0].tier: ")


def test_catalogue_command_loads_no_heavy_runtime() -> None:
    program = (
        "import sys; from serving import catalogue; catalogue.main([sys.argv[1]]);"
        "print(sorted({'ray', 'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(SHIPPED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
