"""The environment variables of an engine's processes: offline, on loopback, silent, writing to the data folder only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from serving.catalogue import Model

STARTUP_FOLDER = Path(__file__).parent / "startup"
LOOPBACK = "127.0.0.1"
RUN_DIR_PREFIX = "sks-"  # short, because the paths of Unix sockets below it must be
# What one inherits could undo what is set here (a RAY_ADDRESS, vLLM's development routes), so it is dropped.
_DROPPED_PREFIXES = ("RAY_", "RAYLLM_", "VLLM_", "HF_", "TRANSFORMERS_")
_DROPPED = ("PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME")


def witness_folder(model: Model, data_dir: Path) -> Path:
    """Where the engines of a model record what they served; one file per process."""
    return data_dir / "served" / model.id


def engine_settings(model: Model, data_dir: Path) -> dict[str, str]:
    """What vLLM needs, with or without Ray. Sizes in GiB, paths absolute."""
    cache = data_dir / "cache"
    settings = {
        "PYTHONPATH": str(STARTUP_FOLDER),
        "SEKISHO_WITNESS_DIR": str(witness_folder(model, data_dir)),
        # no hub, no telemetry
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(cache / "huggingface"),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # what vLLM writes, and where it listens between its own processes
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "VLLM_CONFIG_ROOT": str(cache / "vllm-config"),
        "VLLM_HOST_IP": LOOPBACK,
        # the gateway fetches media; should a domain ever be allowed, it may not send us elsewhere
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }
    if model.engine.enforce_eager:
        # vLLM's samplers compile themselves all the same: 17 s at the first request, and a C++ compiler must be there.
        settings["TORCH_COMPILE_DISABLE"] = "1"
    if model.resources.accelerator == "cpu":
        settings["VLLM_CPU_KVCACHE_SPACE"] = str(model.resources.kv_cache_gib)
    return settings


def ray_settings(data_dir: Path, run_dir: Path) -> dict[str, str]:
    """What a private Ray cluster on this machine needs. The token is new each time and known to this cluster alone."""
    return {
        "TMPDIR": str(run_dir),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray calls this "no cluster beyond this machine"; all its servers then listen on loopback, on Linux too.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Without a token of our own Ray writes one into the home folder.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAYLLM_HOME_DIR": str(data_dir / "cache" / "rayllm"),
        # Prompts belong in no log.
        "RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0",
    }


def process_environment(settings: Mapping[str, str], inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment to start a process with: what is inherited less what could undo `settings`, and `settings`."""
    given = os.environ if inherited is None else inherited
    kept = {
        name: value for name, value in given.items() if name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES)
    }
    return kept | dict(settings)
