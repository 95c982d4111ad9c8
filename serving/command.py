"""The bare vLLM command of an edge site, with the same engine arguments as the Ray Serve application.

`python -m serving.command --catalogue FILE --model ID --port P --data-dir D` prints it, ready for a shell; `--exec`
becomes it. vLLM starts as a module because the CPU build's own `vllm` program looks for a package name that it lacks.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from serving.builder import engine_arguments, weights_folder
from serving.catalogue import Model, load
from serving.environment import LOOPBACK, engine_settings, process_environment
from serving.strict import CatalogueRefused

MODULE = "vllm.entrypoints.openai.api_server"


def bare_command(model: Model, data_dir: Path, port: int) -> list[str]:
    """The argument list, without the interpreter: `-m vllm… --host 127.0.0.1 …`."""
    fixed: dict[str, Any] = {
        "host": LOOPBACK,
        "port": port,
        "model": str(weights_folder(model, data_dir)),
        "served_model_name": model.id,
        "disable_fastapi_docs": True,
        "disable_uvicorn_access_log": True,
    }
    command = ["-m", MODULE]
    for name, value in (fixed | engine_arguments(model)).items():
        command += _flag(name.replace("_", "-"), value)
    return command


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, dict):
        return [f"--{name}", json.dumps(value)]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", str(value)]


def main(arguments: list[str] | None = None) -> int:
    """Command line: exit code 0 good, 1 catalogue refused, 2 no such model."""
    parser = argparse.ArgumentParser(prog="python -m serving.command", description="The bare vLLM command of a model.")
    parser.add_argument("--catalogue", type=Path, required=True)
    parser.add_argument("--model", required=True, help="id in the catalogue")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--exec", action="store_true", help="run the command instead of printing it")
    options = parser.parse_args(arguments)
    data_dir = options.data_dir.resolve()
    try:
        model = load(options.catalogue).model(options.model)
    except CatalogueRefused as finding:
        print(f"catalogue refused: {finding}")
        return 1
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    settings = engine_settings(model, data_dir)
    command = [sys.executable, *bare_command(model, data_dir, options.port)]
    if options.exec:
        os.execve(command[0], command, process_environment(settings))  # noqa: S606  no shell is what is wanted
    print(shlex.join(["env", *(f"{name}={value}" for name, value in settings.items()), *command]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
