"""What `sekisho up` was asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EngineKind = Literal["vllm", "scripted", "upstream"]


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, read once. None means the default; `parent` is the pid of the make to stop with."""

    data_dir: Path
    engine: EngineKind
    upstream: str | None
    model: str | None
    port: int | None
    ops_port: int | None
    admin_port: int | None
    parent: int | None
