"""What customers install has no fail points in it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.kill.stack import REPOSITORY

BUILD_S_MAX = 120


def test_wheel_has_neither_fail_points_nor_tests_in_it(tmp_path: Path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for room in ("gateway", "billing", "serving", "tests", "loadtests"):
        shutil.copytree(REPOSITORY / room, source / room, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    # A copy is built, because setuptools leaves a folder `build` in the tree, and takes files from a stale one.
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet",
         "--wheel-dir", str(wheels), str(source)],
        check=True, timeout=BUILD_S_MAX,
    )  # fmt: skip
    (wheel,) = wheels.glob("sekisho-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        guilty = [name for name in names if b"failpoint" in archive.read(name).lower()]
    assert guilty == []
    rooms = {name.partition("/")[0] for name in names if not name.partition("/")[0].endswith(".dist-info")}
    assert rooms == {"gateway", "billing"}
    assert "gateway/edge/pipeline.py" in names
