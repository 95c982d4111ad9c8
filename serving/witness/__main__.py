"""`python -m serving.witness --dir D --port P [--token-file F]`: serves the records in D at http://127.0.0.1:P/witness.

Light (neither ray nor vllm), so it runs beside the engine and outlives it. It prints one line when it listens. Exit
code 0 after SIGTERM or SIGINT; 2 when it cannot start (port, token file), with one line that says why.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from serving import processes
from serving.environment import LOOPBACK
from serving.witness.access import Access
from serving.witness.reader import Folder
from serving.witness.server import PATH, WitnessRoutes

_SHUTDOWN_S = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until a signal; the exit code."""
    options = _parser().parse_args(arguments)
    if options.with_parent:
        processes.die_with_parent(options.with_parent)
    access = Access(options.token_file)
    if options.token_file is not None and not access.tokens():
        return _failed(f"no token in {options.token_file}: write one into it (mode 0600), or leave --token-file out")
    try:
        asyncio.run(_serve(Folder(options.dir), access, options.port))
    except (OSError, OverflowError) as error:
        return _failed(f"cannot listen on {LOOPBACK}:{options.port} ({error}): name a free port")
    return 0


async def _serve(folder: Folder, access: Access, port: int) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    app = web.Application()
    app.add_routes(WitnessRoutes(folder, access).routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    following = asyncio.create_task(folder.follow())
    try:
        await web.TCPSite(runner, LOOPBACK, port).start()
        print(f"witness: http://{LOOPBACK}:{runner.addresses[0][1]}{PATH}", flush=True)
        stop = asyncio.create_task(ended.wait())
        await asyncio.wait([stop, following], return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
    finally:
        following.cancel()
        await runner.cleanup()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.witness", description="Serve what engines recorded.")
    parser.add_argument("--dir", type=Path, required=True, help="folder of the record files")
    parser.add_argument("--port", type=int, required=True, help=f"on {LOOPBACK}; 0 takes a free one and reports it")
    parser.add_argument("--token-file", type=Path, help="tokens, one a line; without it everybody may read")
    parser.add_argument("--with-parent", type=int, metavar="PID", help="end when the parent, PID, ends")
    return parser


def _failed(reason: str) -> int:
    print(f"witness: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a search in a thread must not delay the end
