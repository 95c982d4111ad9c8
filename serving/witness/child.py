"""The reader process as a child of `serving.run`: started with it, started again when it ends, and ended with all
that came out of it (`serving.processes`)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

RESTART_S_MIN = 1.0


class ReaderChild:
    """`python -m serving.witness` over `folder`. Call `keep` now and then."""

    def __init__(self, folder: Path, port: int, token_file: Path | None) -> None:
        token = () if token_file is None else ("--token-file", str(token_file))
        parent = ("--with-parent", str(os.getpid()))
        self._command = [
            *(sys.executable, "-m", "serving.witness"),
            *("--dir", str(folder), "--port", str(port), *token, *parent),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._started = float("-inf")

    def keep(self) -> None:
        """Starts it where it does not run, at most once a second."""
        if self._process is not None and self._process.poll() is None:
            return
        if time.monotonic() - self._started < RESTART_S_MIN:
            return
        if self._process is not None:
            print(f"the witness ended with code {self._process.returncode}; starting it again", flush=True)
        self._started = time.monotonic()
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)
