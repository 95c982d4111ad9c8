"""``python -m serving.scripted``: starts the scripted engine and prints one line when it listens.

Exit codes: 0 after SIGTERM or SIGINT; 2 when it could not start (scenario file, port), with one line that says why.
"""

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from aiohttp import web

from serving.scripted.scenario import DEFAULT_FILE, ScenarioError, load_scenarios
from serving.scripted.server import Engine

SHUTDOWN_S = 0.2
"""After this, attempts under way are cancelled and recorded as aborted: to drain is the gateway's business."""
LISTEN_BACKLOG = 2048


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the engine until a signal ends it; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        scenarios = load_scenarios(options.scenarios)
        engine = Engine(scenarios, options.record, options.keep_bodies, options.token_file)
    except ScenarioError as error:
        return _failed(f"{options.scenarios}: {error}")
    except OSError as error:
        return _failed(f"the record {options.record} cannot be written ({error.strerror}). Name a writable file.")
    if options.token_file is not None and not engine.access.tokens():
        return _failed(f"no token in {options.token_file}. Write one into it (mode 0600), or leave --token-file out.")
    try:
        uvloop.run(_serve(engine, options.host, options.port))
    except OSError as error:
        return _failed(f"cannot listen on {options.host}:{options.port} ({error}). Name a free port, or 0 for any.")
    return 0


async def _serve(engine: Engine, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    runner = web.AppRunner(engine.app(), access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=LISTEN_BACKLOG).start()
        bound = runner.addresses[0][1]
        # What was imported and parsed lives for ever: keep the collector from walking it again and again.
        gc.freeze()
        print(f"scripted engine: listening on http://{host}:{bound} ({len(engine.models)} models)", flush=True)
        await ended.wait()
    finally:
        await runner.cleanup()
        engine.record.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.scripted", description=__doc__.split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8100, help="port; 0 takes a free one and reports it (default 8100)")
    parser.add_argument(
        "--scenarios", type=Path, default=DEFAULT_FILE, help="scenario file (default: the built-in one)"
    )
    parser.add_argument("--record", type=Path, help="file that records what was served (default: memory only)")
    parser.add_argument("--token-file", type=Path, help="who reads /witness must show one of its lines")
    parser.add_argument(
        "--keep-bodies", type=int, default=0, metavar="N", help="keep the last N requests for GET /served/{attempt_id}"
    )
    return parser


def _failed(reason: str) -> int:
    print(f"scripted engine: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
