"""Turns a catalogue entry into what Ray Serve LLM and vLLM take. Pure: no ray, no vllm, no file is touched.

The values that keep a promise of the gateway are set here and nowhere else, so that a Ray Serve application and the
bare command of an edge site (`serving.command`) cannot differ in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.catalogue import Model
from serving.small_model import model_path

# vLLM takes an empty list for "any domain"; RFC 2606 keeps .invalid from ever existing.
NO_MEDIA_DOMAIN = "media-fetching-is-off.invalid"
# Ray Serve LLM's default of 50 ms would hold back every token (ray#59681).
STREAM_BATCHING_INTERVAL_MS = 0
INGRESS_CLASS = "serving.ingress:ReadyIngress"
WEIGHTS_CALLBACK = "serving.local_weights:LocalWeights"


@dataclass(frozen=True, slots=True)
class Application:
    """One Ray Serve application: keyword arguments of `LLMConfig` and of `build_openai_app`'s ingress deployment."""

    id: str
    llm_config: dict[str, Any]
    ingress_options: dict[str, Any]
    logical_cpus: int


def weights_folder(model: Model, data_dir: Path) -> Path:
    """Where the weights lie: the folder of a `path` source, else the built model in the data folder."""
    if model.source.kind == "path":
        return Path(model.source.location)
    return model_path(data_dir, model.source.location)


def engine_arguments(model: Model) -> dict[str, Any]:
    """vLLM's engine and front-end arguments under their Python names; None and empty ones are left out.

    Looked up in vLLM 0.29: `vllm.engine.arg_utils.AsyncEngineArgs`, `vllm.entrypoints.launchers.cli_args.FrontendArgs`.
    """
    engine = model.engine
    chosen: dict[str, Any] = {
        "dtype": engine.dtype,
        "max_model_len": model.context_tokens,
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "enforce_eager": engine.enforce_eager,
        "enable_prefix_caching": engine.enable_prefix_caching,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "pipeline_parallel_size": engine.pipeline_parallel_size,
        "quantization": engine.quantization,
        "reasoning_parser": engine.reasoning_parser,
        "max_logprobs": engine.max_logprobs,
        "tool_call_parser": engine.tool_call_parser,
        "enable_auto_tool_choice": engine.tool_call_parser is not None,
    }
    return {name: value for name, value in (chosen | _safe_arguments(model)).items() if value is not None}


def _safe_arguments(model: Model) -> dict[str, Any]:
    return {
        "scheduling_policy": "priority",
        "enable_force_include_usage": True,
        "enable_prompt_tokens_details": True,
        # vLLM's default allows 999 of each kind
        "limit_mm_per_prompt": {"image": model.engine.image_limit, "video": 0, "audio": 0},
        "allowed_media_domains": [NO_MEDIA_DOMAIN],
        "trust_remote_code": False,
        "enable_log_requests": False,
        # vLLM's default of 0 cuts every running request at once
        "shutdown_timeout": model.engine.shutdown_timeout_s,
    }


def ray_application(model: Model, data_dir: Path) -> Application:
    """The Ray Serve application of one model.

    Every queue is finite: Ray's own defaults are 10^9 requests, which is neither backpressure nor autoscaling.
    """
    serve = model.serve
    waiting = serve.max_ongoing_requests + serve.max_queued_requests
    llm_config: dict[str, Any] = {
        "model_loading_config": {"model_id": model.id, "model_source": str(weights_folder(model, data_dir))},
        "engine_kwargs": engine_arguments(model),
        "accelerator_config": {"kind": model.resources.accelerator},
        "deployment_config": {
            "autoscaling_config": {
                "min_replicas": serve.min_replicas,
                "max_replicas": serve.max_replicas,
                "target_ongoing_requests": serve.target_ongoing_requests,
            },
            "max_ongoing_requests": serve.max_ongoing_requests,
            "max_queued_requests": serve.max_queued_requests,
            "graceful_shutdown_timeout_s": model.engine.shutdown_timeout_s,
            "graceful_shutdown_wait_loop_s": 0.1,
            "max_constructor_retry_count": 1,  # a model that cannot start says so at once, not after the third try
            "ray_actor_options": {"num_cpus": model.resources.cpus},
        },
        "callback_config": {"callback_class": WEIGHTS_CALLBACK},
        "experimental_configs": {"stream_batching_interval_ms": STREAM_BATCHING_INTERVAL_MS},
    }
    if model.resources.accelerator_type is not None:
        llm_config["accelerator_type"] = model.resources.accelerator_type
    ingress_options = {
        "autoscaling_config": {
            "min_replicas": 1,
            "max_replicas": 1,
            "target_ongoing_requests": waiting,
        },
        "max_ongoing_requests": waiting,
        "max_queued_requests": serve.max_queued_requests,
        "graceful_shutdown_timeout_s": model.engine.shutdown_timeout_s,
        "graceful_shutdown_wait_loop_s": 0.1,
    }
    return Application(model.id, llm_config, ingress_options, _logical_cpus(model))


def _logical_cpus(model: Model) -> int:
    """Ray's logical CPUs: per replica its own and one for vLLM's worker, plus the ingress; spare ones cost nothing."""
    devices = model.engine.tensor_parallel_size * model.engine.pipeline_parallel_size
    return max(6, 2 + model.serve.max_replicas * (model.resources.cpus + devices))
