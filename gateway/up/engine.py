"""Which engine stands behind the gateway: real vLLM, the scripted engine, or one that already runs elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import yaml

from gateway.up.failure import UpError
from gateway.up.folder import DataFolder
from gateway.up.ports import LOOPBACK
from gateway.up.probe import models_of
from gateway.up.processes import Command

EngineKind = Literal["vllm", "scripted", "upstream"]
SCRIPTED_MODEL = "scripted-small"
# Where an engine does not say: large, since the engine itself refuses what is too long for it.
_CONTEXT_TOKENS_UNKNOWN = 32_768


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine as the supervisor needs it.

    `model` describes the model for the seed of the demo tenant, as a catalogue entry does: `id`, `tier`, `region`,
    `site`, `profile`. `prepare` runs to its end before `command` starts; both are absent for an engine not ours.
    """

    kind: EngineKind
    base_url: str
    witness_url: str | None
    model: Mapping[str, Any]
    ready_s_max: float = 30.0
    prepare: Command | None = None
    command: Command | None = None

    @property
    def model_id(self) -> str:
        """The name clients ask for."""
        return str(self.model["id"])


def source_root() -> Path:
    """The clone: `serving` is in no wheel of the gateway, so it runs from the source tree."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "serving" / "__init__.py").exists():
        raise UpError(f"there is no engine beside {root}", "run from a clone, or name a running engine with UPSTREAM=…")
    return root


def scripted(folder: DataFolder, env: Mapping[str, str], port: int, model: str | None, python: Path) -> Engine:
    """The engine that answers from a scenario file; needs nothing but our own environment."""
    root = source_root()
    name = model or SCRIPTED_MODEL
    scenario = _scenarios(root).get(name)
    if scenario is None:
        raise UpError(f"the scripted engine has no model {name}", f"use MODEL={SCRIPTED_MODEL}, or leave it out")
    record = folder.part("served") / "scripted.jsonl"
    argv = (str(python), "-m", "serving.scripted", "--host", LOOPBACK, "--port", str(port), "--record", str(record))
    return Engine(
        kind="scripted",
        base_url=f"http://{LOOPBACK}:{port}/v1",
        witness_url=f"http://{LOOPBACK}:{port}/witness",
        model=_described(name, scenario.get("max_model_len"), scenario.get("image_tokens", 0)),
        command=Command(name="engine", argv=argv, log=folder.log("engine"), env=_on_source(env, root), cwd=root),
    )


def vllm(folder: DataFolder, env: Mapping[str, str], port: int, model: str | None) -> Engine:
    """vLLM under Ray Serve on this machine, with a model of the catalogue (the first one by default)."""
    root = source_root()
    python = root / ".venv-serving" / "bin" / "python"
    if not (python.parent.parent / ".sekisho-complete").exists():
        raise UpError("the engine's environment is not installed", "run `make install-serving`, or use ENGINE=scripted")
    catalogue = root / "serving" / "catalogue.yaml"
    entry = _entry(catalogue, model)
    name, data, log = str(entry["id"]), str(folder.root), folder.log("engine")
    run = ("-m", "serving.run", "--catalogue", str(catalogue), "--model", name, "--port", str(port), "--data-dir", data)
    return Engine(
        kind="vllm",
        base_url=f"http://{LOOPBACK}:{port}/v1",
        witness_url=None,
        model=entry,
        ready_s_max=600.0,
        prepare=Command(
            name="model",
            argv=(str(python), "-m", "serving.small_model", "--data-dir", data),
            log=folder.log("model"),
            env=_on_source(env, root),
            cwd=root,
        ),
        command=Command(
            name="engine", argv=(str(python), *run), log=log, env=_on_source(env, root), cwd=root, stop_s_max=5.0
        ),
    )


def _entry(catalogue: Path, model: str | None) -> Mapping[str, Any]:
    entries = yaml.safe_load(catalogue.read_text(encoding="utf-8"))["models"]
    for entry in entries:
        if model is None or entry["id"] == model:
            return dict(entry)
    known = ", ".join(entry["id"] for entry in entries)
    raise UpError(f"the catalogue has no model {model}", f"name one of {known} with MODEL=…")


async def elsewhere(base_url: str, model: str | None) -> Engine:
    """An OpenAI-dialect server that somebody else runs. Raises `UpError` when it does not list the model."""
    base_url = base_url.rstrip("/")
    try:
        models = await models_of(base_url)
    except (ValueError, aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UpError(
            f"UPSTREAM={base_url} gives no list of models at {base_url}/models ({error or type(error).__name__})",
            "start it, or correct the URL (it usually ends in /v1)",
        ) from error
    if model is None and len(models) == 1:
        model = next(iter(models))
    if model is None or model not in models:
        asked = f"does not serve {model}" if model else f"serves {len(models)} models"
        raise UpError(f"UPSTREAM={base_url} {asked}", f"name one with MODEL=…: {', '.join(list(models)[:10])}")
    return Engine(
        kind="upstream",
        base_url=base_url,
        witness_url=None,
        model=_described(model, models[model], 0),
    )


def _described(name: str, context_tokens: int | None, image_tokens: int) -> dict[str, Any]:
    """A catalogue entry for an engine that has none."""
    context = context_tokens or _CONTEXT_TOKENS_UNKNOWN
    profile = {
        "context_tokens": context,
        "max_output_tokens": context,
        "modalities": ["text", "image"] if image_tokens else ["text"],
        "image_tokens": image_tokens,
    }
    return {"id": name, "tier": "heavy", "region": "jp", "site": "local", "profile": profile}


def _scenarios(root: Path) -> Mapping[str, Any]:
    text = (root / "serving" / "scripted" / "scenarios.yaml").read_text(encoding="utf-8")
    models: Mapping[str, Any] = yaml.safe_load(text)["models"]
    return models


def _on_source(env: Mapping[str, str], root: Path) -> dict[str, str]:
    return {**env, "PYTHONPATH": str(root)}
