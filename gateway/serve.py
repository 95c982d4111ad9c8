"""`sekisho gateway`: uvicorn on the data port and the operations port, in one event loop, with a graceful end."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import signal
import ssl
from dataclasses import dataclass, replace
from typing import Any

import uvicorn
import uvloop

from gateway.edge.app import DataPlane, operations_app
from gateway.edge.http_protocol import SekishoProtocol
from gateway.identity.settings import Tls, local_urls
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


@dataclass(frozen=True, slots=True)
class Listen:
    """Where one process listens. `roles` are the planes it serves: the data plane on `port`, the admin plane on
    `admin_port`, with TLS where `tls` is set; health is on `ops_port` whatever the roles, without."""

    roles: frozenset[str]
    host: str
    port: int
    ops_port: int
    admin_port: int
    tls: Tls | None = None


def serve(settings: Settings, listen: Listen) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a drain. `OSError` when a port is taken or PostgreSQL is away."""
    _return_freed_memory()
    return uvloop.run(_serve(settings, listen))


def _return_freed_memory() -> None:
    """Make glibc give large blocks back when they are freed: by default it keeps what a burst of large bodies took."""
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
    except (OSError, AttributeError):
        _LOG.info("another C library than glibc: freed memory is returned as that library likes")


async def _serve(settings: Settings, listen: Listen) -> int:
    gateway = Gateway(_addressed(settings, listen))
    async with contextlib.AsyncExitStack() as held:
        await held.enter_async_context(gateway.running())
        planes = []
        if "data" in listen.roles:
            planes.append(_server(DataPlane(gateway), listen.host, listen.port, settings, listen.tls))
        if "admin" in listen.roles:
            from gateway.control.app import admin_plane  # a process of the data plane alone never loads it

            admin = await held.enter_async_context(admin_plane(settings, gateway.identifier, gateway.limits))
            planes.append(_server(admin, listen.host, listen.admin_port, settings, listen.tls))
        operations = _server(operations_app(gateway), listen.host, listen.ops_port, settings)
        servers = (*planes, operations)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        _spare_the_collector()
        running = [asyncio.create_task(server.serve()) for server in servers]
        ended = asyncio.create_task(stop.wait())
        await asyncio.wait([ended, *running], return_when=asyncio.FIRST_COMPLETED)
        gateway.draining = True
        for plane in planes:
            plane.should_exit = True
        await asyncio.gather(*running[:-1])
        operations.should_exit = True
        await running[-1]
        ended.cancel()
        return 0 if stop.is_set() else 2


def _spare_the_collector() -> None:
    """Requests make few cycles, and what was loaded at the start stays: walking it again and again is a tenth of the
    cost of a request (measured with py-spy; `make bench-overhead` shows the sum)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


def _addressed(settings: Settings, listen: Listen) -> Settings:
    """`settings` with the origins at which this process is addressed, where nobody named public ones."""
    if settings.identity.public_urls:
        return settings
    urls = local_urls(listen.host, listen.port, tls=listen.tls is not None)
    return replace(settings, identity=replace(settings.identity, public_urls=urls))


def tls_options(tls: Tls | None) -> dict[str, Any]:
    """uvicorn's options. A client may show a certificate; only credentials that are bound to one need it."""
    if tls is None:
        return {}
    options: dict[str, Any] = {"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)}
    if tls.client_ca is not None:
        options |= {"ssl_ca_certs": str(tls.client_ca), "ssl_cert_reqs": ssl.CERT_OPTIONAL}
    return options


def _server(app: object, host: str, port: int, settings: Settings, tls: Tls | None = None) -> _Server:
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
        **tls_options(tls),
    )
    return _Server(config)


logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
