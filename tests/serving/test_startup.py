"""The two corrections that every engine process carries, against stand-ins that fail as the real libraries do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.environment import STARTUP_FOLDER

TORCH = """
class library:
    declared = []
    class Library:
        def __init__(self, namespace, kind):
            self.namespace = namespace
        def define(self, schema):
            library.declared.append(self.namespace + "::" + schema.partition("(")[0])
"""
# As in torchvision 0.28: a submodule registers fake kernels for operators that the CUDA extension should have brought.
TORCHVISION = "from torchvision import _meta_registrations\nworks = True\n"
META_REGISTRATIONS = """
import torch
for name in ("torchvision::nms", "torchvision::qnms"):
    if name not in torch.library.declared:
        raise RuntimeError(f"operator {name} does not exist")
"""
REPLICA = """
def add_port_to_grpc_server(server, address):
    server.append(address)
    return 4711
def start(server):
    return add_port_to_grpc_server(server, "[::]:0")
"""


def run_beside(folder: Path, files: dict[str, str], program: str) -> "subprocess.CompletedProcess[str]":
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    given = {**os.environ, "PYTHONPATH": os.pathsep.join([str(STARTUP_FOLDER), str(folder)])}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)


def test_torchvision_for_cuda_imports_beside_torch_for_cpu(tmp_path: Path) -> None:
    files = {
        "torch.py": TORCH,
        "torchvision/__init__.py": TORCHVISION,
        "torchvision/_meta_registrations.py": META_REGISTRATIONS,
    }
    program = "import torchvision, torch; print(torchvision.works, torch.library.declared)"
    done = run_beside(tmp_path, files, program)
    assert done.stdout == "True ['torchvision::nms', 'torchvision::qnms']\n", done.stderr


def test_torchvision_that_imports_by_itself_is_left_alone(tmp_path: Path) -> None:
    files = {"torch.py": TORCH, "torchvision/__init__.py": "works = True\n"}
    program = "import torchvision, torch; print(torchvision.works, torch.library.declared)"
    assert run_beside(tmp_path, files, program).stdout == "True []\n"


@pytest.mark.parametrize("failure", ["RuntimeError('out of memory')", "ImportError('operator torchvision::nms')"])
def test_other_failures_of_torchvision_are_shown_as_they_are(tmp_path: Path, failure: str) -> None:
    done = run_beside(tmp_path, {"torchvision/__init__.py": f"raise {failure}\n"}, "import torchvision")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == failure.replace("('", ": ").replace("')", "")


def test_replica_listens_on_loopback_only(tmp_path: Path) -> None:
    files = {"ray/__init__.py": "", "ray/serve/__init__.py": "", "ray/serve/_private/__init__.py": ""}
    files["ray/serve/_private/replica.py"] = REPLICA
    program = "from ray.serve._private import replica; s = []; print(replica.start(s), s)"
    done = run_beside(tmp_path, files, program)
    assert done.stdout == "4711 ['127.0.0.1:0']\n", done.stderr


def test_replica_of_another_ray_version_fails_loudly(tmp_path: Path) -> None:
    # without the function that is corrected, the port would be open to all without a word
    files = {"ray/__init__.py": "", "ray/serve/__init__.py": "", "ray/serve/_private/__init__.py": ""}
    files["ray/serve/_private/replica.py"] = "def another_name(server, address): ...\n"
    done = run_beside(tmp_path, files, "import ray.serve._private.replica")
    assert done.returncode == 1
    assert "add_port_to_grpc_server" in done.stderr
