"""The builder sets what the gateway relies on; the Ray Serve application and the bare command say the same."""

import itertools
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from serving import command, environment
from serving.builder import NO_MEDIA_DOMAIN, engine_arguments, ray_application, weights_folder
from serving.catalogue import Model, load, parse
from tests.serving.test_catalogue import SHIPPED, entry, text_of

DATA = Path("/data")


def model(**changes: Any) -> Model:
    return parse(text_of(entry(**changes))).models[0]


def image_model() -> Model:
    return load(SHIPPED).model("smollm2-135m-llava")


def test_every_engine_argument_that_protects_is_set_whatever_the_catalogue_leaves_out() -> None:
    arguments = engine_arguments(model())
    assert arguments["scheduling_policy"] == "priority"
    assert arguments["enable_force_include_usage"] is True
    assert arguments["enable_prompt_tokens_details"] is True
    assert arguments["trust_remote_code"] is False
    assert arguments["enable_log_requests"] is False
    assert arguments["shutdown_timeout"] >= 1
    assert arguments["limit_mm_per_prompt"] == {"image": 0, "video": 0, "audio": 0}


def test_engine_keeps_the_counts_that_its_record_is_made_of() -> None:
    # false is vLLM's default, and its command line has no flag to say so
    assert "disable_log_stats" not in engine_arguments(model())


def test_media_domains_are_closed_by_a_name_that_cannot_exist() -> None:
    # vLLM takes an empty list for "any domain".
    assert engine_arguments(image_model())["allowed_media_domains"] == [NO_MEDIA_DOMAIN]
    assert NO_MEDIA_DOMAIN.endswith(".invalid")


def test_image_model_takes_a_limited_number_of_images_and_no_other_media() -> None:
    assert engine_arguments(image_model())["limit_mm_per_prompt"] == {"image": 4, "video": 0, "audio": 0}


def test_tools_are_parsed_only_where_the_catalogue_names_a_parser() -> None:
    without, with_parser = model(), model(engine={"tool_call_parser": "hermes"})
    assert engine_arguments(without)["enable_auto_tool_choice"] is False
    assert "tool_call_parser" not in engine_arguments(without)
    assert engine_arguments(with_parser)["enable_auto_tool_choice"] is True
    assert engine_arguments(with_parser)["tool_call_parser"] == "hermes"


def test_application_sends_every_token_at_once() -> None:
    assert ray_application(model(), DATA).llm_config["experimental_configs"]["stream_batching_interval_ms"] == 0


def test_application_has_finite_queues_at_engine_and_ingress() -> None:
    serve = {"max_ongoing_requests": 8, "target_ongoing_requests": 4, "max_queued_requests": 2, "max_replicas": 3}
    application = ray_application(model(serve=serve), DATA)
    engine = application.llm_config["deployment_config"]
    assert (engine["max_ongoing_requests"], engine["max_queued_requests"]) == (8, 2)
    assert engine["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 4}
    ingress = application.ingress_options
    assert (ingress["max_ongoing_requests"], ingress["max_queued_requests"]) == (10, 2)
    assert ingress["autoscaling_config"]["target_ongoing_requests"] < 10**6


def test_application_on_cpu_names_no_accelerator_type() -> None:
    llm_config = ray_application(model(), DATA).llm_config
    assert llm_config["accelerator_config"] == {"kind": "cpu"}
    assert "accelerator_type" not in llm_config


def test_application_on_gpu_names_the_accelerator_type() -> None:
    resources = {"accelerator": "gpu", "accelerator_type": "H100"}
    llm_config = ray_application(model(resources=resources), DATA).llm_config
    assert llm_config["accelerator_config"] == {"kind": "gpu"}
    assert llm_config["accelerator_type"] == "H100"


def test_application_leaves_model_name_and_weights_to_ray() -> None:
    # Ray Serve LLM refuses both among the engine's arguments.
    llm_config = ray_application(model(), DATA).llm_config
    assert not {"model", "served_model_name"} & set(llm_config["engine_kwargs"])
    assert llm_config["model_loading_config"] == {"model_id": "tiny", "model_source": "/data/models/smollm2-135m"}


def test_application_asks_ray_for_enough_logical_cpus() -> None:
    # One for the replica and one per device of its engine, for each replica; fewer and Ray waits for ever.
    resources = {"accelerator": "cpu", "cpus": 4, "kv_cache_gib": 1}
    many = model(resources=resources, serve={"max_replicas": 5}, engine={"tensor_parallel_size": 2})
    assert ray_application(many, DATA).logical_cpus >= 5 * (4 + 2)
    assert ray_application(model(), DATA).logical_cpus >= 6


def test_weights_of_a_path_source_lie_where_the_catalogue_says() -> None:
    there = model(source={"kind": "path", "location": "/srv/models/a"})
    assert weights_folder(there, DATA) == Path("/srv/models/a")


def test_bare_command_has_the_same_engine_arguments() -> None:
    words = command.bare_command(image_model(), DATA, 9000)
    assert words[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    given = dict(itertools.pairwise(words))
    for name, value in engine_arguments(image_model()).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            assert (flag if value else flag.replace("--", "--no-", 1)) in words
        elif isinstance(value, dict):
            assert json.loads(given[flag]) == value
        else:
            assert given[flag] == str(value[0] if isinstance(value, list) else value)
    assert given["--host"] == "127.0.0.1"
    assert given["--port"] == "9000"
    assert given["--served-model-name"] == "smollm2-135m-llava"


def test_bare_command_is_printed_ready_for_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--catalogue", str(SHIPPED), "--model", "smollm2-135m", "--port", "9000", "--data-dir", "/data"]
    assert command.main(options) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[0] == "env"
    assert "HF_HUB_OFFLINE=1" in words
    assert "VLLM_CPU_KVCACHE_SPACE=1" in words
    assert sys.executable in words


def test_bare_command_of_an_unknown_model_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--catalogue", str(SHIPPED), "--model", "huge", "--port", "9000", "--data-dir", "/data"]
    assert command.main(options) == 2
    assert "known are smollm2-135m" in capsys.readouterr().err


def test_bare_command_of_a_refused_catalogue_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "catalogue.yaml"
    file.write_text(text_of(entry(tier="medium")), encoding="utf-8")
    options = ["--catalogue", str(file), "--model", "tiny", "--port", "9000", "--data-dir", "/data"]
    assert command.main(options) == 1
    assert capsys.readouterr().out.startswith("catalogue refused: out_of_range at models[0].tier")


def test_inherited_variables_cannot_undo_the_settings() -> None:
    inherited = {
        "PATH": "/bin",
        "RAY_ADDRESS": "10.0.0.1:6379",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "0",
        "HF_TOKEN": "secret",
        "PYTHONPATH": "/elsewhere",
    }
    settings = environment.engine_settings(model(), DATA)
    made = environment.process_environment(settings, inherited)
    assert made == {"PATH": "/bin", **settings}
    assert made["VLLM_NO_USAGE_STATS"] == "1"
    assert made["PYTHONPATH"] == str(environment.STARTUP_FOLDER)


def test_ray_stays_on_loopback_with_a_token_of_its_own() -> None:
    first, second = (environment.ray_settings(DATA, Path("/run/x")) for _ in range(2))
    assert first["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert first["RAY_AUTH_MODE"] == "token"
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


def test_engine_writes_below_the_data_folder_only() -> None:
    settings = environment.engine_settings(model(), DATA) | environment.ray_settings(DATA, Path("/run/x"))
    homes = {name: value for name, value in settings.items() if name.endswith(("_ROOT", "_HOME", "_HOME_DIR"))}
    assert len(homes) == 4
    assert all(value.startswith("/data/cache/") for value in homes.values())
