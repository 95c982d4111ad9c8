"""What the wheel imports is in its own lock: a newcomer's environment has nothing else than that."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Imports every module of the wheel in an interpreter that finds only what the lock names.
_PROGRAM = """
import importlib, json, pkgutil, re, sys
from importlib.metadata import packages_distributions
locked = set(json.loads(sys.argv[1]))
absent = {
    module for module, owners in packages_distributions().items()
    if not locked & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
}
class Locked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
for module in [name for name in sys.modules if name.partition(".")[0] in absent]:
    del sys.modules[module]
sys.meta_path.insert(0, Locked())
import gateway, billing
for package in (gateway, billing):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith((".__main__", ".env")) and ".versions." not in module.name:
            importlib.import_module(module.name)
"""


def test_every_module_of_the_wheel_is_imported_with_its_own_lock_alone() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    names = re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)
    locked = ["sekisho", *(re.sub(r"[-_.]+", "-", name).lower() for name in names)]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(locked)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
