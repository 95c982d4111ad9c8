"""A model folder is whole or absent, whatever happened to earlier builds. No torch here: the recipes are stand-ins."""

import multiprocessing
import multiprocessing.synchronize
from pathlib import Path

import pytest

from serving import small_model
from serving.small_model import MARKER, ModelNotBuilt, Report, ensure_built, is_complete

WEIGHTS = b"weights"


def silent(_line: str) -> None:
    """A report that nobody reads."""


def recipe(folder: Path, _report: Report) -> None:
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "parts").mkdir()
    (folder / "parts" / "model.safetensors").write_bytes(WEIGHTS)


def forbidden(_folder: Path, _report: Report) -> None:
    pytest.fail("nothing was to be built")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_built_model_is_complete_and_is_not_built_again(tmp_path: Path) -> None:
    folder = ensure_built(tmp_path, "tiny", silent, recipe)
    assert folder == tmp_path / "models" / "tiny"
    assert is_complete(folder)
    assert (folder / "parts" / "model.safetensors").read_bytes() == WEIGHTS
    assert ensure_built(tmp_path, "tiny", silent, forbidden) == folder


def test_failed_build_leaves_nothing_and_the_next_one_succeeds(tmp_path: Path) -> None:
    def failing(folder: Path, report: Report) -> None:
        recipe(folder, report)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_built(tmp_path, "tiny", silent, failing)
    assert names(tmp_path / "models") == set()
    assert is_complete(ensure_built(tmp_path, "tiny", silent, recipe))


def test_full_disk_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    def failing(_folder: Path, _report: Report) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ModelNotBuilt, match=r"No space left.*free some space"):
        ensure_built(tmp_path, "tiny", silent, failing)
    assert names(tmp_path / "models") == set()


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    # a SIGKILL runs no handler, so the temporary folder stays as it was
    partial = tmp_path / "models" / ".tiny.building"
    partial.mkdir(parents=True)
    (partial / "half").write_bytes(b"x")
    said: list[str] = []
    folder = ensure_built(tmp_path, "tiny", said.append, recipe)
    assert names(tmp_path / "models") == {"tiny"}
    assert not (folder / "half").exists()
    assert any("unfinished" in line for line in said)


@pytest.mark.parametrize("damage", ["marker_gone", "marker_broken", "file_gone", "file_short", "older_recipe"])
def test_incomplete_model_is_built_again(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_built(tmp_path, "tiny", silent, recipe)
    weights = folder / "parts" / "model.safetensors"
    if damage == "marker_gone":
        (folder / MARKER).unlink()
    elif damage == "marker_broken":
        (folder / MARKER).write_text("[]", encoding="utf-8")
    elif damage == "file_gone":
        weights.unlink()
    elif damage == "file_short":
        weights.write_bytes(WEIGHTS[:-1])
    else:
        monkeypatch.setattr(small_model, "RECIPE_VERSION", small_model.RECIPE_VERSION + 1)
    assert not is_complete(folder)
    assert is_complete(ensure_built(tmp_path, "tiny", silent, recipe))
    assert weights.read_bytes() == WEIGHTS


def _build_counting(data_dir: Path, log: Path, start: multiprocessing.synchronize.Barrier) -> None:
    def counting(folder: Path, report: Report) -> None:
        with log.open("a", encoding="utf-8") as lines:
            lines.write("built\n")
        recipe(folder, report)

    start.wait(30)
    ensure_built(data_dir, "tiny", silent, counting)


def test_two_processes_build_one_model_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log, start = tmp_path / "log", context.Barrier(2)
    builders = [context.Process(target=_build_counting, args=(tmp_path, log, start)) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0, 0]
    assert log.read_text(encoding="utf-8") == "built\n"
