"""`install.py`: environments from locks, without a network: a clone in small, with one tiny package of its own."""

import ast
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from gateway.up import environments
from gateway.up.failure import UpError

ROOT = Path(__file__).resolve().parents[3]


PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
# A build backend without dependencies (PEP 660), so that an editable installation needs no index.
BACKEND = """
import pathlib, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name, info = "small-1-py3-none-any.whl", "small-1.dist-info"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as wheel:
        wheel.writestr("small.pth", str(pathlib.Path.cwd()))
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: small\\nVersion: 1\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


def _wheel(folder: Path, version: str) -> Path:
    """A wheel `tiny` with one module (the wheel format of PyPA's binary distribution specification)."""
    folder.mkdir(exist_ok=True)
    path = folder / f"tiny-{version}-py3-none-any.whl"
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def _lock(clone: Path, version: str) -> None:
    digest = hashlib.sha256(_wheel(clone / "wheels", version).read_bytes()).hexdigest()
    (clone / "requirements.lock").write_text(f"tiny=={version} \\\n    --hash=sha256:{digest}\n")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with what `install.py` needs and a lock of one package."""
    root = tmp_path / "clone"
    (root / "gateway").mkdir(parents=True)
    shutil.copy(ROOT / "install.py", root)
    shutil.copy(ROOT / "gateway" / "__init__.py", root / "gateway")
    shutil.copytree(ROOT / "gateway" / "up", root / "gateway" / "up", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "backend.py").write_text(BACKEND)
    _lock(root, "1.0")
    return root


def _environ(clone: Path, **changes: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(clone / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    return {**env, **offline, **changes}


def _install(clone: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(clone / "install.py"), *arguments],
        env=_environ(clone, **changes), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def _tiny_version(clone: Path) -> str:
    code = "import tiny, gateway; print(tiny.version)"
    return subprocess.check_output([clone / ".venv/bin/python", "-c", code], text=True, cwd="/").strip()


def test_environment_is_made_once_and_made_again_when_it_must(clone: Path) -> None:
    first = _install(clone)
    assert first.returncode == 0, first.stderr
    assert "installing 1 packages from requirements.lock" in first.stdout
    assert first.stdout.splitlines()[-1].endswith(".venv: ready")
    assert _tiny_version(clone) == "1.0"

    began = time.monotonic()
    second = _install(clone)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert time.monotonic() - began < 0.2 + 0.3  # 0.2 s is promised; the rest is for a busy machine

    (clone / "pyproject.toml").write_text(PROJECT + "[tool.ruff]\nline-length = 100\n")
    assert _install(clone).stdout == ""  # nothing of that is installed

    _lock(clone, "2.0")
    changed = _install(clone)
    assert changed.returncode == 0, changed.stderr
    assert "its lock changed or the clone moved; making it again" in changed.stdout
    assert _tiny_version(clone) == "2.0"

    (clone / ".venv" / ".sekisho-complete").unlink()
    (clone / ".venv" / "half").write_text("")
    half = _install(clone)
    assert "an earlier installation was cut short; making it again" in half.stdout
    assert half.returncode == 0, half.stderr
    assert not (clone / ".venv" / "half").exists()


def test_unreachable_index_is_one_line_with_pips_last_words_above(clone: Path) -> None:
    nowhere = "http://127.0.0.1:9/simple"
    done = _install(clone, PIP_NO_INDEX="0", PIP_INDEX_URL=nowhere, PIP_FIND_LINKS="", PIP_RETRIES="1")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("install.py: .venv: the package index cannot be reached; check the network")
    assert "install.venv.log" in last
    assert not (clone / ".venv" / ".sekisho-complete").exists()


def test_package_that_is_not_the_locked_one_is_refused(clone: Path) -> None:
    lock = clone / "requirements.lock"
    lock.write_text(lock.read_text().replace("sha256:", "sha256:0")[:-2] + "\n")
    done = _install(clone)
    assert done.returncode == 2
    assert "a downloaded package is not the one in the lock" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_an_installation_and_the_next_one_starts_over(clone: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, str(clone / "install.py")],
        env=_environ(clone), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert "making the environment" in running.stdout.readline()
        running.send_signal(number)
        _, errors = running.communicate(timeout=20)
    assert running.returncode == 130
    assert f"stopped ({number.name})" in errors
    assert not environments.plan(clone, serving=False, dev=False, torch_index_url="")[0].is_complete()


def test_two_installations_take_turns(clone: Path) -> None:
    argv = [sys.executable, str(clone / "install.py")]
    with (
        subprocess.Popen(argv, env=_environ(clone), stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(argv, env=_environ(clone), stdout=subprocess.PIPE, text=True) as second,
    ):
        outputs = first.communicate(timeout=60)[0], second.communicate(timeout=60)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert sum("waiting for it" in output for output in outputs) == 1
    assert sum("making the environment" in output for output in outputs) == 1


def test_serving_comes_after_torch_which_may_come_from_another_index(tmp_path: Path) -> None:
    (tmp_path / "serving").mkdir()
    for name in ("requirements.lock", "requirements-torch.lock"):
        (tmp_path / "serving" / name).write_text("")
    parts = environments.plan(tmp_path, serving=True, dev=True, torch_index_url="http://index")
    assert [part.title for part in parts] == [".venv", ".venv (development tools)", ".venv-serving"]
    assert [lock.name for lock in parts[-1].locks] == ["requirements-torch.lock", "requirements.lock"]
    assert parts[-1].index_url == "http://index"
    assert parts[-1].needs_bytes == 8 * 10**9


def test_clone_without_its_lock_is_told_so(clone: Path) -> None:
    (clone / "requirements.lock").unlink()
    done = _install(clone)
    assert done.returncode == 2
    assert done.stderr == "install.py: .venv: requirements.lock is missing; this clone is incomplete, clone it again\n"


def test_full_disk_is_told_before_anything_is_made(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_GB", 10**18)
    part = environments.plan(clone, serving=False, dev=False, torch_index_url="")[0]
    with pytest.raises(UpError, match=r"\.venv needs .* GB of disk"):
        environments.Installer(clone, None).run(clone, [part])
    assert not (clone / ".venv").exists()


def test_python_without_venv_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, clone: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ensurepip" else found(name))
    with pytest.raises(UpError, match="apt-get install python"):
        environments._check_venv()


def test_other_python_gets_one_line_that_says_which_is_needed() -> None:
    run = f"runpy.run_path({str(ROOT / 'install.py')!r}, run_name='__main__')"
    code = f"import sys, runpy; sys.version_info = (3, 9, 2); {run}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert "needs CPython 3.11" in done.stderr
    assert done.stderr.count("\n") == 1


def test_install_py_can_be_read_by_an_old_python() -> None:
    ast.parse((ROOT / "install.py").read_text(encoding="utf-8"), feature_version=(3, 4))
