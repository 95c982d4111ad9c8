"""How the bytes of one streamed answer reach the client, and how a fault keeps them from it.

Headers go out through aiohttp. After that, events are framed here and written to the transport directly: at thousands
of chunks per second a coroutine per chunk is what would cost most.
"""

import asyncio
import socket
import struct

from aiohttp import web

from serving.scripted.scenario import SlowHeaders

UNREAD_MAX = 1 << 20
"""Bytes that a client may leave unread before generation pauses for it."""

STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8"}
JSON_HEADERS = {"Content-Type": "application/json"}


def frame(data: bytes) -> bytes:
    """One chunk of HTTP/1.1 chunked transfer coding (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def transport_of(request: web.BaseRequest) -> asyncio.Transport:
    """The client's connection. Raises ConnectionResetError when it is already gone."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client left")
    return transport


def drop(transport: asyncio.Transport, *, reset: bool = False) -> web.Response:
    """Ends the connection now; the response only satisfies aiohttp, which finds nobody to send it to."""
    if reset:
        # Closing with a linger time of zero is what makes the kernel send RST; abort() alone still sends FIN.
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    else:
        transport.close()
    return web.Response()


async def hang() -> None:
    """Waits for ever; the client's departure cancels it."""
    await asyncio.get_running_loop().create_future()


async def send_slowly(transport: asyncio.Transport, headers: dict[str, str], fault: SlowHeaders) -> None:
    """Writes status line and headers byte by byte over ``fault.seconds``; the connection closes after the answer."""
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in headers.items()), "Connection: close", "", ""]
    data = "\r\n".join(lines).encode("ascii")
    for byte in data:
        transport.write(bytes((byte,)))
        await asyncio.sleep(fault.seconds / len(data))
