"""Two corrections that every Python process of the engine needs before its first heavy import.

Python imports a module of this name by itself when it starts, if its folder is on PYTHONPATH; `serving.environment`
puts it there. A vLLM plugin would come too late: `import vllm.config` already imports torchvision, and so does the
subprocess in which vLLM inspects a model class.

1. torchvision's wheel on the package index is linked against CUDA. Beside CPU torch its extension cannot be loaded, its
   operators stay undefined, and `import torchvision` ends with "operator torchvision::nms does not exist". Declaring
   the two schemas that it looks for is enough; nobody calls them while serving. A torchvision that loads is left alone.
2. Every Ray Serve replica opens a gRPC server on all interfaces (`[::]:0` is written into ray 2.60), and what it
   receives it unpickles. Ray's own clients reach it under the node's address, which is the loopback address here.

The corrections wait for the module they concern, so starting Python costs nothing more.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# torch forgets a library's operators when its handle is collected, so the handle lives as long as the process.
_declared: list[Any] = []

Execute = Callable[[ModuleType], None]


def _import_torchvision(execute: Execute, module: ModuleType) -> None:
    try:
        execute(module)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare_operators()
        # The failed import left submodules behind; a half-made one would be taken as it is.
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
        execute(module)


def _declare_operators() -> None:
    library = importlib.import_module("torch").library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)


def _import_replica(execute: Execute, module: ModuleType) -> None:
    execute(module)
    original = module.add_port_to_grpc_server  # AttributeError: another ray version, where this must be looked at again

    def on_loopback(server: Any, address: str) -> int:
        port: int = original(server, address.replace("[::]:", "127.0.0.1:"))
        return port

    vars(module)["add_port_to_grpc_server"] = on_loopback


_CORRECTIONS: dict[str, Callable[[Execute, ModuleType], None]] = {
    "torchvision": _import_torchvision,
    "ray.serve._private.replica": _import_replica,
}


class _CorrectingLoader(importlib.abc.Loader):
    """Runs a module through its correction instead of directly."""

    def __init__(self, loader: importlib.abc.Loader, name: str) -> None:
        self._loader = loader
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        _CORRECTIONS[self._name](self._loader.exec_module, module)


class _CorrectingFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _CORRECTIONS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _CorrectingLoader(spec.loader, fullname)
        return spec


def install() -> None:
    """Puts the corrections in front of the import system; a second call changes nothing."""
    if not any(type(finder).__name__ == _CorrectingFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _CorrectingFinder())


install()
