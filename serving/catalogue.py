"""The model catalogue: one YAML file, parsed once into frozen values, or refused with a reason.

Everything that runs a model starts from here: the Ray Serve application (`serving.builder`), the bare vLLM command of
an edge site (`serving.command`), and what the gateway must know of a model to license, reserve and route
(`python -m serving.catalogue FILE --json`). Imports neither ray, vllm nor torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from serving.strict import CatalogueRefused, Fields

_NAME = r"[a-z0-9][a-z0-9-]{0,62}"
_MODEL_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_RECIPE = r"[a-z0-9][a-z0-9.-]{0,62}"
_MODALITIES = ("text", "image")
# A client may never set these (wire.md), so no catalogue may hand them through as extra parameters.
NEVER_PASSED = frozenset(
    {
        "cache_salt",
        "chat_template",
        "ec_transfer_params",
        "kv_transfer_params",
        "logits_processors",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "priority",
        "prompt_embeds",
        "request_id",
        "session_id",
        "uuid",
        "vllm_xargs",
    }
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights come from. `built`: a recipe of `serving.small_model`; `path`: a folder on the machine."""

    kind: str
    location: str


@dataclass(frozen=True, slots=True)
class Engine:
    """Engine arguments under vLLM's own names, in vLLM's units. `serving.builder` adds those with one safe value.

    `image_limit` is the number of images a request may carry; `shutdown_timeout_s` how long running requests may finish
    when the engine stops, in seconds.
    """

    dtype: str
    max_num_seqs: int
    max_num_batched_tokens: int | None
    enforce_eager: bool
    enable_prefix_caching: bool
    gpu_memory_utilization: float
    tensor_parallel_size: int
    pipeline_parallel_size: int
    quantization: str | None
    tool_call_parser: str | None
    reasoning_parser: str | None
    max_logprobs: int
    image_limit: int
    shutdown_timeout_s: int


@dataclass(frozen=True, slots=True)
class Serve:
    """How many requests Ray Serve takes: numbers of requests, per replica unless named otherwise.

    More than `max_queued_requests` waiting ones are refused with 503; fairness is the gateway's, so the queue is short.
    """

    min_replicas: int
    max_replicas: int
    max_ongoing_requests: int
    target_ongoing_requests: int
    max_queued_requests: int


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica needs. `cpus` are Ray's logical CPUs; `kv_cache_gib` is the CPU engine's cache, in GiB."""

    accelerator: str
    accelerator_type: str | None
    cpus: int
    kv_cache_gib: int


@dataclass(frozen=True, slots=True)
class Model:
    """One model as it is served. Token counts are upper bounds that the gateway reserves before it knows better:

    `template_overhead_tokens` once per request and `message_overhead_tokens` per message are what the chat template
    adds to the text; `image_tokens` is what one image costs.
    """

    id: str
    source: Source
    tier: str
    region: str
    site: str
    operator: str | None
    modalities: tuple[str, ...]
    context_tokens: int
    max_output_tokens: int
    template_overhead_tokens: int
    message_overhead_tokens: int
    image_tokens: int
    extra_params: tuple[str, ...]
    engine: Engine
    serve: Serve
    resources: Resources


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All models of one file, in its order."""

    models: tuple[Model, ...]

    def model(self, model_id: str) -> Model:
        """The model of that id; KeyError with the known ids otherwise."""
        for model in self.models:
            if model.id == model_id:
                return model
        raise KeyError(f"no model {model_id!r} in the catalogue; known are {', '.join(m.id for m in self.models)}")


def load(file: Path) -> Catalogue:
    """Reads and checks a catalogue file. Raises :class:`CatalogueRefused` at the first thing that is wrong."""
    try:
        return parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueRefused("unreadable", str(file), str(error), "check the path and the encoding") from error


def parse(text: str) -> Catalogue:
    """Checks a catalogue's text; raises like :func:`load`."""
    try:
        tree = _UniqueKeyLoader(text).get_single_data()
    except (yaml.YAMLError, RecursionError) as error:
        where, problem = _yaml_problem(error)
        raise CatalogueRefused("unreadable", where, problem, "correct the YAML") from error
    top = Fields(tree, "")
    top.integer("version", low=1, high=1)
    models = tuple(_model(Fields(entry, f"models[{n}]")) for n, entry in enumerate(top.entries("models")))
    top.done()
    seen: set[str] = set()
    for number, model in enumerate(models):
        if model.id in seen:
            where = f"models[{number}].id"
            raise CatalogueRefused("duplicate_model", where, f"{model.id!r} stands twice", "give it another id")
        seen.add(model.id)
    return Catalogue(models)


def _model(fields: Fields) -> Model:
    context = fields.integer("context_tokens", low=128, high=10_000_000)
    modalities = _modalities(fields)
    model = Model(
        id=fields.text("id", pattern=_MODEL_ID),
        source=_source(fields.section("source")),
        tier=fields.choice("tier", ("heavy", "edge")),
        region=fields.text("region", pattern=_NAME),
        site=fields.text("site", pattern=_NAME),
        operator=fields.optional_text("operator", pattern=_NAME),
        modalities=modalities,
        context_tokens=context,
        max_output_tokens=fields.integer("max_output_tokens", low=1, high=context - 1),
        template_overhead_tokens=fields.integer("template_overhead_tokens", low=0, high=100_000),
        message_overhead_tokens=fields.integer("message_overhead_tokens", low=0, high=10_000),
        image_tokens=_image_tokens(fields, modalities),
        extra_params=_extra_params(fields),
        engine=_engine(fields.section("engine", {}), modalities),
        serve=_serve(fields.section("serve", {})),
        resources=_resources(fields.section("resources")),
    )
    fields.done()
    return model


def _modalities(fields: Fields) -> tuple[str, ...]:
    names = fields.texts("modalities")
    where = fields.at("modalities")
    for name in names:
        if name not in _MODALITIES:
            cure = f"choose from {', '.join(_MODALITIES)}"
            raise CatalogueRefused("out_of_range", where, f"{name!r} is not known", cure)
    if "text" not in names:
        raise CatalogueRefused("out_of_range", where, "every model here reads and writes text", "add text")
    return names


def _image_tokens(fields: Fields, modalities: tuple[str, ...]) -> int:
    if "image" not in modalities:
        return fields.integer("image_tokens", 0, low=0, high=0)
    # A default would let images through unreserved, hence unpaid.
    return fields.integer("image_tokens", low=1, high=100_000)


def _extra_params(fields: Fields) -> tuple[str, ...]:
    names = fields.texts("extra_params", ())
    for name in names:
        if name in NEVER_PASSED:
            reason = f"{name!r} is set by the gateway alone: a client could reach other tenants' state with it"
            raise CatalogueRefused("unsafe_value", fields.at("extra_params"), reason, "remove it")
    return names


def _source(fields: Fields) -> Source:
    kind = fields.choice("kind", ("built", "path"))
    # A hub is never asked: what runs is what lies on the machine.
    source = Source(kind, fields.text("location", pattern=_RECIPE if kind == "built" else r"/.+"))
    fields.done()
    return source


def _engine(fields: Fields, modalities: tuple[str, ...]) -> Engine:
    _only_safe(fields)
    batched = fields.integer("max_num_batched_tokens", 0, low=0, high=1_000_000)
    engine = Engine(
        dtype=fields.choice("dtype", ("auto", "bfloat16", "float16", "float32"), "auto"),
        max_num_seqs=fields.integer("max_num_seqs", 16, low=1, high=4096),
        max_num_batched_tokens=batched or None,
        enforce_eager=fields.flag("enforce_eager", False),
        enable_prefix_caching=fields.flag("enable_prefix_caching", True),
        gpu_memory_utilization=fields.fraction("gpu_memory_utilization", 0.9, low=0.05, high=0.98),
        tensor_parallel_size=fields.integer("tensor_parallel_size", 1, low=1, high=1024),
        pipeline_parallel_size=fields.integer("pipeline_parallel_size", 1, low=1, high=1024),
        quantization=fields.optional_text("quantization", pattern=r"[a-z0-9_-]{1,40}"),
        tool_call_parser=fields.optional_text("tool_call_parser", pattern=r"[a-z0-9_-]{1,40}"),
        reasoning_parser=fields.optional_text("reasoning_parser", pattern=r"[a-z0-9_-]{1,40}"),
        max_logprobs=fields.integer("max_logprobs", 20, low=0, high=20),
        image_limit=_image_limit(fields, modalities),
        shutdown_timeout_s=fields.integer("shutdown_timeout_s", 3, low=1, high=8),
    )
    fields.done()
    return engine


def _only_safe(fields: Fields) -> None:
    """Engine arguments with one safe value; whoever writes another one learns what it would break."""
    fields.only("scheduling_policy", "priority", why="would ignore the priority band that the gateway sets")
    fields.only("enable_force_include_usage", True, why="would let answers pass without usage")
    fields.only("enable_prompt_tokens_details", True, why="would hide cached and image tokens, which have own prices")
    fields.only("allowed_local_media_path", "", why="would let a client read files of this machine")
    fields.only("allowed_media_domains", [], why="would make the engine fetch URLs; only the gateway fetches media")
    fields.only("trust_remote_code", False, why="would run code that came with the weights")
    fields.only("enable_log_requests", False, why="would write prompts to the log")
    fields.only("disable_log_stats", False, why="would switch off the counts that the engine's own record is made of")


def _image_limit(fields: Fields, modalities: tuple[str, ...]) -> int:
    if "image" not in modalities:
        return fields.integer("image_limit", 0, low=0, high=0)
    return fields.integer("image_limit", low=1, high=64)


def _serve(fields: Fields) -> Serve:
    fields.only("stream_batching_interval_ms", 0, why="would hold back tokens (ray#59681): the first one comes late")
    ongoing = fields.integer("max_ongoing_requests", 64, low=1, high=100_000)
    least = fields.integer("min_replicas", 1, low=1, high=1000)
    serve = Serve(
        min_replicas=least,
        max_replicas=fields.integer("max_replicas", least, low=least, high=1000),
        max_ongoing_requests=ongoing,
        target_ongoing_requests=fields.integer("target_ongoing_requests", max(1, ongoing // 2), low=1, high=ongoing),
        max_queued_requests=fields.integer("max_queued_requests", 64, low=0, high=100_000),
    )
    fields.done()
    return serve


def _resources(fields: Fields) -> Resources:
    accelerator = fields.choice("accelerator", ("cpu", "gpu"))
    on_cpu = accelerator == "cpu"
    resources = Resources(
        accelerator=accelerator,
        accelerator_type=fields.optional_text("accelerator_type", pattern=r"[A-Za-z0-9-]{1,40}"),
        cpus=fields.integer("cpus", 1, low=1, high=1024),
        # Unset, vLLM's CPU engine asks for nearly all of the machine's memory.
        kv_cache_gib=fields.integer("kv_cache_gib", low=1, high=4096) if on_cpu else 0,
    )
    if on_cpu and resources.accelerator_type is not None:
        where = fields.at("accelerator_type")
        raise CatalogueRefused("out_of_range", where, "a CPU replica has no accelerator type", "remove the field")
    fields.done()
    return resources


class _UniqueKeyLoader(yaml.SafeLoader):
    """A SafeLoader for which a repeated key is an error: the later one would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Called by PyYAML for every mapping."""
        seen: set[object] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, Hashable) and name in seen:
                where = f"line {key.start_mark.line + 1}"
                raise CatalogueRefused("duplicate_key", where, f"{name!r} stands twice", "remove one of them")
            if isinstance(name, Hashable):
                seen.add(name)
        return super().construct_mapping(node, deep)


def _yaml_problem(error: Exception) -> tuple[str, str]:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}", str(error.problem)
    return "the file", str(error).splitlines()[0] if str(error) else type(error).__name__


def main(arguments: list[str] | None = None) -> int:
    """Command line: exit code 0 good, 1 refused (the finding on stdout), 2 usage error."""
    parser = argparse.ArgumentParser(prog="python -m serving.catalogue", description="Check a model catalogue.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true", help="print the parsed catalogue as JSON")
    options = parser.parse_args(arguments)
    try:
        catalogue = load(options.file)
    except CatalogueRefused as finding:
        print(f"catalogue refused: {finding}")
        return 1
    if options.json:
        print(json.dumps(asdict(catalogue), ensure_ascii=False, indent=1))
    else:
        print(f"catalogue good: {', '.join(model.id for model in catalogue.models)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
