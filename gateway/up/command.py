"""`sekisho up` on the command line. Loads next to nothing until it is called: other commands register it too.

Exit codes: 0 stopped by SIGINT, SIGTERM, SIGHUP or the end of make; 2 could not start or go on (one line says why).
"""

import argparse
import asyncio
import os
from pathlib import Path

from gateway.up.options import Options


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `up` to the command line; `arguments.run(arguments)` returns the exit code."""
    parser = subparsers.add_parser("up", help="start stores, engine, gateway and worker on this machine")
    parser.add_argument("--engine", choices=("vllm", "scripted"), default="vllm", help="the engine to start")
    parser.add_argument("--upstream", metavar="URL", help="use this OpenAI-dialect server (…/v1) instead of an engine")
    parser.add_argument("--model", metavar="NAME", help="the model to serve")
    parser.add_argument("--port", type=_port, help="data port (default 8080, or a free one)")
    parser.add_argument("--ops-port", type=_port, help="operations port (default 8081, or a free one)")
    parser.add_argument("--admin-port", type=_port, help="admin port (default 8082, or a free one)")
    # SUPPRESS: `sekisho --data-dir X up` has set it before, and a default here would undo that
    parser.add_argument("--data-dir", default=argparse.SUPPRESS, help="default: SEKISHO_DATA_DIR, else ./.sekisho")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # pid of the make to stop with
    parser.set_defaults(run=main)


def main(arguments: argparse.Namespace) -> int:
    """Runs the stack until it is stopped; returns the exit code."""
    from gateway.up.life import run

    options = Options(
        data_dir=Path(getattr(arguments, "data_dir", None) or os.environ.get("SEKISHO_DATA_DIR") or ".sekisho"),
        engine=arguments.engine,
        upstream=arguments.upstream or None,
        model=arguments.model or None,
        port=arguments.port,
        ops_port=arguments.ops_port,
        admin_port=arguments.admin_port,
        parent=arguments.parent,
    )
    return asyncio.run(run(options))


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port (1 to 65535)")
    return port
