"""Which engine stands behind the gateway: real vLLM, the scripted engine, or one that already runs elsewhere."""

import asyncio
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from gateway.up.failure import UpError
from gateway.up.folder import DataFolder
from gateway.up.options import EngineKind
from gateway.up.ports import LOOPBACK
from gateway.up.probe import models_of
from gateway.up.processes import Command

SCRIPTED_MODEL = "scripted-small"
# Where an engine does not say: large, since the engine itself refuses what is too long for it.
_CONTEXT_TOKENS_UNKNOWN = 32_768
_CONTEXT_TOKENS_SCRIPTED = 8_192  # of a scenario that names no other (`max_model_len` in serving/scripted/scenario.py)
_VLLM_READY_S_MAX = 600.0  # 80 s on two idle cores


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine as the supervisor needs it.

    `model` describes the model for the seed of the demo tenant, as a catalogue entry does: `id`, `tier`, `region`,
    `site`, `profile`. `prepare` runs to its end before `command` starts; `witness` serves what the engine recorded
    where the engine does not do so itself. All three are absent for an engine not ours.
    """

    kind: EngineKind
    base_url: str
    witness_url: str | None
    model: Mapping[str, Any]
    ready_s_max: float = 30.0
    prepare: Command | None = None
    command: Command | None = None
    witness: Command | None = None

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


def scripted(
    folder: DataFolder, env: Mapping[str, str], port: int, token_file: Path, model: str | None, python: Path
) -> Engine:
    """The engine that answers from a scenario file; needs nothing but our own environment. It serves its own records,
    to those who show a token of `token_file`."""
    root = source_root()
    name = model or SCRIPTED_MODEL
    scenario = _scenarios(root).get(name)
    if scenario is None:
        raise UpError(f"the scripted engine has no model {name}", f"use MODEL={SCRIPTED_MODEL}, or leave it out")
    record = folder.part("served") / "scripted.jsonl"
    where = ("--host", LOOPBACK, "--port", str(port), "--record", str(record), "--token-file", str(token_file))
    argv = (str(python), "-m", "serving.scripted", *where)
    return Engine(
        kind="scripted",
        base_url=f"http://{LOOPBACK}:{port}/v1",
        witness_url=f"http://{LOOPBACK}:{port}/witness",
        model=_counting(
            _described(name, scenario.get("max_model_len", _CONTEXT_TOKENS_SCRIPTED), scenario.get("image_tokens", 0)),
            port,
        ),
        command=Command(name="engine", argv=argv, log=folder.log("engine"), env=_on_source(env, root), cwd=root),
    )


async def vllm(
    folder: DataFolder,
    env: Mapping[str, str],
    ports: tuple[int, int],
    token_file: Path,
    model: str | None,
    python: Path,
) -> Engine:
    """vLLM under Ray Serve on this machine, with a model of the catalogue (the first one by default).

    `ports` are the engine's and its witness's. `python` is our own interpreter, which is enough to read the catalogue
    and the records: the witness is a child of its own, so that it answers also while the engine is down.
    """
    port, witness_port = ports
    root = source_root()
    serving = root / ".venv-serving"
    if not (serving / "bin" / "python").exists():
        raise UpError("the engine's environment is not installed", "run `make install-serving`, or use ENGINE=scripted")
    catalogue = root / "serving" / "catalogue.yaml"
    entry = _entry(await _catalogue(python, catalogue, root), model)
    python_m = (str(serving / "bin" / "python"), "-m")
    at = ("--data-dir", str(folder.root))
    run = ("serving.run", "--catalogue", str(catalogue), "--model", entry["id"], "--port", str(port), *at)
    command = Command(
        name="engine",
        argv=(*python_m, *run),
        log=folder.log("engine"),
        env=_on_source(env, root),
        cwd=root,
        stop_s_max=6.5,  # Ray's driver gets 4 s, then what came out of it is killed
        death_signal=signal.SIGTERM,  # it clears up after Ray, which SIGKILL would not let it
    )
    # the folder is `serving.environment.witness_folder`; the end-to-end test with vLLM holds the two together
    records = ("--dir", str(folder.part("served") / entry["id"]), "--port", str(witness_port))
    witness = replace(
        command,
        name="witness",
        argv=(str(python), "-m", "serving.witness", *records, "--token-file", str(token_file)),
        log=folder.log("witness"),
        stop_s_max=2.0,
        death_signal=signal.SIGKILL,
    )
    build = (*python_m, "serving.small_model", *at, "--name", entry["source"]["location"])
    return Engine(
        kind="vllm",
        base_url=f"http://{LOOPBACK}:{port}/v1",
        witness_url=f"http://{LOOPBACK}:{witness_port}/witness",
        model=_counting(_listed(entry), port),  # under Ray Serve texts only: a chat keeps its bound
        ready_s_max=_VLLM_READY_S_MAX,
        prepare=replace(command, name="model", argv=build) if entry["source"]["kind"] == "built" else None,
        command=command,
        witness=witness,
    )


async def _catalogue(python: Path, catalogue: Path, root: Path) -> list[dict[str, Any]]:
    """The models of the catalogue, as the engine's own reader understands them; it refuses unsafe values."""
    reader = await asyncio.create_subprocess_exec(
        str(python), "-m", "serving.catalogue", str(catalogue), "--json",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=root,
    )  # fmt: skip
    output, _ = await reader.communicate()
    if reader.returncode != 0:
        raise UpError(f"the catalogue {catalogue} is refused", output.decode("utf-8", "replace").strip())
    models: list[dict[str, Any]] = json.loads(output)["models"]
    return models


def _entry(models: list[dict[str, Any]], name: str | None) -> dict[str, Any]:
    for entry in models:
        if name is None or entry["id"] == name:
            return entry
    known = ", ".join(entry["id"] for entry in models)
    raise UpError(f"the catalogue has no model {name}", f"use MODEL=… with one of {known}")


def _listed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the gateway must know of a model of the catalogue."""
    names = (
        "context_tokens",
        "max_output_tokens",
        "modalities",
        "extra_params",
        "image_tokens",
        "message_overhead_tokens",
    )
    profile = {name: entry[name] for name in names}
    profile["request_overhead_tokens"] = entry["template_overhead_tokens"]
    return {**{name: entry[name] for name in ("id", "tier", "region", "site")}, "profile": profile}


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
    return {"id": name, "tier": "heavy", "region": "jp-east", "site": "local", "profile": profile}


def _counting(model: dict[str, Any], port: int) -> dict[str, Any]:
    """`model` of an engine on `port` that counts prompts in vLLM's form."""
    return {**model, "profile": {**model["profile"], "tokenize_url": f"http://{LOOPBACK}:{port}/tokenize"}}


def _scenarios(root: Path) -> Mapping[str, Any]:
    text = (root / "serving" / "scripted" / "scenarios.yaml").read_text(encoding="utf-8")
    models: Mapping[str, Any] = yaml.safe_load(text)["models"]
    return models


def _on_source(env: Mapping[str, str], root: Path) -> dict[str, str]:
    return {**env, "PYTHONPATH": str(root)}
