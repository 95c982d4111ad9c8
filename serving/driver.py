"""Ray's driver: a private cluster on loopback with one Ray Serve application. Started by `serving.run` only.

`serving.run` made the environment (`serving.environment`), which Ray and vLLM read when they are imported; hence the
imports inside the functions.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from serving import processes
from serving.builder import INGRESS_CLASS, Application, ray_application
from serving.catalogue import load
from serving.environment import LOOPBACK

OBJECT_STORE_BYTES = 128 * 1024 * 1024  # tokens are small; Ray's default of 30 % of memory belongs to the model
KEEP_ALIVE_S = 90  # longer than a client keeps an idle connection, so that it never writes into one that we just closed
FIRST_ANSWER_S_MAX = 60.0
KILL_S_MAX = 5.0


class _Stop(BaseException):
    """Asked to end. Not an Exception, so that no library takes it for a failure of its own and tries again."""


def main(arguments: list[str] | None = None) -> int:
    """Runs until a signal; exit code 0 then, a traceback and 1 when something fails."""
    parser = argparse.ArgumentParser(prog="python -m serving.driver")
    for name, kind in (("--catalogue", Path), ("--model", str), ("--port", int), ("--data-dir", Path)):
        parser.add_argument(name, type=kind, required=True)
    options = parser.parse_args(arguments)
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {line}", flush=True)

    processes.adopt_orphans()
    _listen_for_stop()
    processes.die_with_parent(os.getppid())
    application = ray_application(load(options.catalogue).model(options.model), options.data_dir.resolve())
    try:
        _start_ray(application, report_to=report)
        _listen_for_stop()  # Ray put its own handler in our handler's place
        _deploy(application, options.port)
        _first_answer(application.name, options.port)
        report(f"ready: http://{LOOPBACK}:{options.port}/v1 serves {application.name}")
        while True:
            signal.pause()
    except (_Stop, SystemExit):
        return 0
    finally:
        # Ray's own shutdown waits for one actor after the other; whoever stops the engine has drained it before.
        processes.kill_descendants(KILL_S_MAX)


def _listen_for_stop() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)


def _on_signal(number: int, _frame: object) -> None:
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise _Stop(signal.Signals(number).name)
