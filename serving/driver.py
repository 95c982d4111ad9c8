# mypy: disable-error-code="import-not-found"
"""Ray's driver: a private cluster on loopback with one Ray Serve application. Started by `serving.run` only.

`serving.run` made the environment (`serving.environment`), which Ray and vLLM read when they are imported; hence the
imports inside the functions.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from pathlib import Path

from serving import processes
from serving.builder import INGRESS_CLASS, Application, ray_application
from serving.catalogue import load
from serving.environment import LOOPBACK, RUN_DIR_PREFIX, witness_folder
from serving.witness.index import Index

OBJECT_STORE_BYTES = 128 * 1024 * 1024  # tokens are small; Ray's default of 30 % of memory belongs to the model
KEEP_ALIVE_S = 90  # longer than a client keeps an idle connection, so that it never writes into one that we just closed
FIRST_ANSWER_S_MAX = 60.0
RECORD_S_MAX = 2.0  # it is written before the answer ends; this is for a file system that shows it late
DRAIN_S_MAX = 2.0
KILL_S_MAX = 1.0


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
    data_dir = options.data_dir.resolve()
    model = load(options.catalogue).model(options.model)
    application = ray_application(model, data_dir)
    ask = _no_farewell
    try:
        report("starting Ray")
        _start_ray(application)
        report("starting Ray Serve and vLLM")
        _deploy(application, options.port)
        _recorded(_first_answer(application.id, options.port), witness_folder(model, data_dir))
        report(f"ready: http://{LOOPBACK}:{options.port}/v1 serves {application.id}")
        ask = _drain
        while True:
            signal.pause()
    except (_Stop, SystemExit):
        return 0
    finally:
        processes.end_descendants(ask, KILL_S_MAX)
        _remove_run_dir()


def _listen_for_stop() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)


def _on_signal(number: int, _frame: object) -> None:
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise _Stop(signal.Signals(number).name)


def _start_ray(application: Application) -> None:
    import ray

    ray.init(
        address="local",  # never a cluster that happens to run here
        num_cpus=application.logical_cpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        namespace="sekisho",
        _node_ip_address=LOOPBACK,
        _temp_dir=tempfile.gettempdir(),
    )
    _listen_for_stop()  # Ray put its own handler in our handler's place


def _deploy(application: Application, port: int) -> None:
    """Returns when every replica is healthy; raises what Ray raises when one cannot become so."""
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    serve.start(http_options={"host": LOOPBACK, "port": port, "keep_alive_timeout_s": KEEP_ALIVE_S})
    arguments = {
        "llm_configs": [LLMConfig(**application.llm_config)],
        "ingress_cls_config": {"ingress_cls": INGRESS_CLASS},
        "ingress_deployment_config": application.ingress_options,
    }
    serve.run(build_openai_app(arguments), name=application.id, route_prefix="/")


def _first_answer(model_id: str, port: int) -> str:
    """One token through the whole road: "ready" is a promise that a first request succeeds. Returns its attempt id."""
    attempt_id = f"ready-check-{uuid.uuid4()}"
    body = {"model": model_id, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    request = urllib.request.Request(
        f"http://{LOOPBACK}:{port}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json", "x-request-id": attempt_id},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy stands between us and ourselves
    with opener.open(request, timeout=FIRST_ANSWER_S_MAX) as answer:
        json.load(answer)
    return attempt_id


def _recorded(attempt_id: str, folder: Path) -> None:
    """The engine must have recorded it, too: one that serves and does not count is not ready."""
    records = Index(folder)
    deadline = time.monotonic() + RECORD_S_MAX
    while True:
        records.refresh()
        if records.find(attempt_id) is not None:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"the engine recorded nothing in {folder}: vLLM does not find serving's plugin; install it again"
                " (.venv-serving/bin/pip install --no-deps --no-build-isolation -e serving)"
            )
        time.sleep(0.05)


def _remove_run_dir() -> None:
    """`serving.run` does this too, unless it was killed; nothing but the folder that it made is ever removed."""
    folder = Path(tempfile.gettempdir())
    if folder.name.startswith(RUN_DIR_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _no_farewell() -> None:
    """Nothing runs yet that could be finished."""


def _drain() -> None:
    """Lets Serve finish what runs, for a bounded time: what is left then is killed."""
    from ray import serve

    waiter = threading.Thread(target=serve.shutdown, daemon=True)
    waiter.start()
    waiter.join(DRAIN_S_MAX)


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    os._exit(exit_code)  # Ray's exit hooks would wait for a cluster that is gone
