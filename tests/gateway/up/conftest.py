"""Stand-in processes for the supervisor's tests."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.up.processes import Command

MakeCommand = Callable[..., Command]


@pytest.fixture
def python_command(tmp_path: Path) -> MakeCommand:
    """`python_command("name", "print(1)")` is a command that runs this Python text."""

    def make(name: str, text: str, *, stop_s_max: float = 5.0) -> Command:
        return Command(
            name=name,
            argv=(sys.executable, "-u", "-c", text),
            log=tmp_path / f"{name}.log",
            env=dict(os.environ),
            stop_s_max=stop_s_max,
        )

    return make
