"""`sekisho gateway`: uvicorn on the data port and the operations port, in one event loop, with a graceful end."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import signal

import uvicorn
import uvloop

from gateway.edge.app import DataPlane, operations_app
from gateway.edge.http_protocol import SekishoProtocol
from gateway.process import Gateway
from gateway.settings import Settings

_LOG = logging.getLogger(__name__)

BACKLOG = 4_096
LARGE_BLOCK_BYTES = 1024 * 1024
_M_MMAP_THRESHOLD = -3  # malloc.h
KEEP_ALIVE_S = 75


class _Server(uvicorn.Server):
    """Signals are handled here, once for both servers."""

    def capture_signals(self):  # type: ignore[no-untyped-def] # uvicorn's own is an untyped context manager
        return contextlib.nullcontext()


def serve(settings: Settings, host: str, port: int, operations_port: int) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a drain. `OSError` when a port is taken or PostgreSQL is away."""
    _return_freed_memory()
    return uvloop.run(_serve(settings, host, port, operations_port))


def _return_freed_memory() -> None:
    """Make glibc give large blocks back when they are freed: by default it keeps what a burst of large bodies took."""
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
    except (OSError, AttributeError):
        _LOG.info("another C library than glibc: freed memory is returned as that library likes")


async def _serve(settings: Settings, host: str, port: int, operations_port: int) -> int:
    gateway = Gateway(settings)
    async with gateway.running():
        data = _server(DataPlane(gateway), host, port, settings)
        operations = _server(operations_app(gateway), host, operations_port, settings)
        servers = (data, operations)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        _spare_the_collector()
        running = [asyncio.create_task(server.serve()) for server in servers]
        ended = asyncio.create_task(stop.wait())
        await asyncio.wait([ended, *running], return_when=asyncio.FIRST_COMPLETED)
        gateway.draining = True
        data.should_exit = True
        await running[0]
        operations.should_exit = True
        await running[1]
        ended.cancel()
        return 0 if stop.is_set() else 2


def _spare_the_collector() -> None:
    """Requests make few cycles, and what was loaded at the start stays: walking it again and again is a tenth of the
    cost of a request (measured with py-spy; `make bench-overhead` shows the sum)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


def _server(app: object, host: str, port: int, settings: Settings) -> _Server:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type] # FastAPI and Starlette applications are ASGI applications
        host=host,
        port=port,
        http=SekishoProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, int(settings.drain_s)),
    )
    return _Server(config)


logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
