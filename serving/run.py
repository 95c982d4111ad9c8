"""Runs one model of the catalogue on this machine: OpenAI dialect at http://127.0.0.1:PORT/v1.

`python -m serving.run --catalogue FILE --model ID --port P --data-dir D` stays in the foreground, prints one line per
step and `ready: URL` when a request has been answered. SIGTERM or SIGINT ends it within 10 s, and so does the death of
whoever started it.

Two processes share the work. This one is light and never loads Ray: it prepares, watches, and at the end makes sure
that nothing is left. `serving.driver` is Ray's driver; Ray's and vLLM's processes come out of it. Each outlives a
SIGKILL of the other long enough to clear up. With --witness-port this one also keeps `serving.witness` running, which
serves what the engine recorded in `<data dir>/served/<model>/`, whether the engine lives or not.

Exit codes: 0 stopped on request; 1 the catalogue is refused; 2 usage error, or it could not start or go on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import processes
from serving.catalogue import Model, load
from serving.environment import (
    LOOPBACK,
    RUN_DIR_PREFIX,
    engine_settings,
    process_environment,
    ray_settings,
    witness_folder,
)
from serving.strict import CatalogueRefused
from serving.witness.child import ReaderChild

# Ray's sockets lie in <run dir>/session_<date>_<µs>_<pid>/sockets/<name>, 70 bytes at most below the run dir; the path
# of a Unix socket may have 107 bytes (unix(7)), ours has 99 at most.
RUN_DIR_BYTES_MAX = 28
DRIVER_STOP_S_MAX = 4.0
KILL_S_MAX = 5.0
WATCH_S = 0.5


class CannotRun(Exception):
    """The engine cannot start or go on; the text says what and what to do."""


class _Stop(Exception):
    """Somebody asked us to end."""


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's text for the exit codes."""
    options = _options(arguments)
    parent = os.getppid()
    for number in (signal.SIGTERM, signal.SIGINT):  # also where SIGINT was inherited as ignored
        signal.signal(number, _on_signal)
    try:
        model = load(options.catalogue).model(options.model)
        _check_port(options.port)
        data_dir = options.data_dir.resolve()
        _prepare_weights(model, data_dir)
        reader = _reader(options, witness_folder(model, data_dir))
        with _run_dir() as run_dir:
            _supervise(_driver_command(options), _environment(model, data_dir, run_dir), parent, reader)
    except CatalogueRefused as finding:
        print(f"catalogue refused: {finding}")
        return 1
    except (CannotRun, KeyError) as error:
        print(f"engine: {error.args[0]}", file=sys.stderr)
        return 2
    except _Stop:
        print("stopped", flush=True)
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serving.run", description="Run one model of the catalogue.")
    parser.add_argument("--catalogue", type=Path, required=True)
    parser.add_argument("--model", required=True, help="id in the catalogue")
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument("--data-dir", type=Path, required=True, help="where models, caches and records lie")
    parser.add_argument("--witness-port", type=int, help="serve the engine's records there, on 127.0.0.1")
    parser.add_argument("--witness-token-file", type=Path, help="who reads them must show one of its lines")
    return parser.parse_args(arguments)


def _on_signal(number: int, _frame: object) -> None:
    # The first signal is enough; a second one must not cut the clearing up short.
    signal.signal(number, signal.SIG_IGN)
    raise _Stop(signal.Signals(number).name)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError) as error:
            raise CannotRun(f"port {port} on {LOOPBACK} cannot be used ({error}); name another one") from error


def _prepare_weights(model: Model, data_dir: Path) -> None:
    """Builds the weights if they are not there, in a process of its own: the build loads torch, this one never does."""
    if model.source.kind == "path":
        if not (Path(model.source.location) / "config.json").is_file():
            raise CannotRun(f"no model in {model.source.location}; correct `source` of {model.id} in the catalogue")
        return
    name = model.source.location
    command = [sys.executable, "-m", "serving.small_model", "--data-dir", str(data_dir), "--name", name]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as build:
        try:
            code = build.wait()
        except _Stop:
            build.terminate()
            raise
    if code != 0:
        raise CannotRun(f"the model {name} could not be built; see the line above")


def _driver_command(options: argparse.Namespace) -> list[str]:
    return [
        *(sys.executable, "-m", "serving.driver"),
        *("--catalogue", str(options.catalogue), "--model", options.model),
        *("--port", str(options.port), "--data-dir", str(options.data_dir)),
    ]


def _reader(options: argparse.Namespace, folder: Path) -> ReaderChild | None:
    if options.witness_port is None:
        return None
    _check_port(options.witness_port)
    return ReaderChild(folder, options.witness_port, options.witness_token_file)


def _environment(model: Model, data_dir: Path, run_dir: Path) -> dict[str, str]:
    return process_environment(engine_settings(model, data_dir) | ray_settings(data_dir, run_dir))


@contextmanager
def _run_dir() -> Iterator[Path]:
    """A new, short, private folder for Ray's session and vLLM's sockets, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=RUN_DIR_PREFIX, dir=short_temp_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def short_temp_folder() -> Path:
    """The system's temporary folder, or another one when sockets below it would have too long a path."""
    room = RUN_DIR_BYTES_MAX - len(f"/{RUN_DIR_PREFIX}12345678")  # mkdtemp(3) appends eight letters
    for folder in (Path(tempfile.gettempdir()), Path("/", "tmp"), Path("/dev", "shm")):
        if len(os.fsencode(folder)) <= room and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise CannotRun(f"no writable temporary folder with a path of at most {room} bytes; set TMPDIR to one")


def _supervise(command: list[str], environment: dict[str, str], parent: int, reader: ReaderChild | None = None) -> None:
    """Runs the driver until it dies (CannotRun) or we are asked to stop (_Stop); leaves no process behind."""
    processes.adopt_orphans()
    # In a session of its own: a signal to our process group is ours to act on, a SIGKILL to it reaches only us, and the
    # driver clears up.
    driver = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while True:
            if reader is not None:
                reader.keep()
            try:
                code = driver.wait(WATCH_S)
            except subprocess.TimeoutExpired:
                if parent != 1 and os.getppid() != parent:
                    raise _Stop("parent") from None
                continue
            raise CannotRun(f"Ray's driver ended with code {code}; see the lines above")
    finally:
        _end(driver)  # and whatever else came out of us, the reader included


def _end(driver: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)

    def ask() -> None:
        driver.terminate()
        try:
            driver.wait(DRIVER_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()

    left = processes.end_descendants(ask, KILL_S_MAX)
    if left:
        print(f"engine: {len(left)} processes survived SIGKILL for {KILL_S_MAX} s: {left}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
