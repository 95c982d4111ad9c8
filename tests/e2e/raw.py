"""HTTP as bytes on a socket: for clients that leave, dawdle, or send what no library would."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tests.e2e.tenants import Tenant

CHAT = "/v1/chat/completions"
READ_S_MAX = 20.0


@dataclass(frozen=True)
class Answer:
    """What came back. `closed` tells that the server closed the connection after it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    closed: bool

    @property
    def error(self) -> dict[str, Any]:
        """The error object of the OpenAI dialect."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


class Listening(Protocol):
    """Anything with a data port: a stack, or one more gateway on its stores."""

    @property
    def port(self) -> int:
        """The data port."""


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        """Send bytes; a connection that the server has closed takes them silently."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        async with asyncio.timeout(READ_S_MAX):
            block = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = block.decode("latin-1").split("\r\n")
        return int(first.split(" ")[1]), {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
        }

    async def answer(self) -> Answer:
        """The next answer, which has a length or lasts until the close."""
        status, headers = await self.head()
        async with asyncio.timeout(READ_S_MAX):
            if headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            else:
                body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(status, headers, body, headers.get("connection") == "close")

    async def _chunks(self) -> bytes:
        parts = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            parts.append((await self.reader.readexactly(size + 2))[:-2])
        await self.reader.readexactly(2)
        return b"".join(parts)

    async def closed_within(self, seconds: float) -> bool:
        """Whether the server closes the connection in time; what it sends until then is thrown away."""
        try:
            async with asyncio.timeout(seconds):
                while await self.reader.read(65_536):
                    continue
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True

    def reset(self) -> None:
        """Leave with RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(stack: Listening, receive_buffer: int = 0) -> AsyncIterator[Wire]:
    """A connection to the data port; `receive_buffer` in bytes makes ours small, so that not reading is noticed."""
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", stack.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=receive_buffer or 2**16)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def chat(model: str = "scripted-small", **fields: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": model, "messages": [{"role": "user", "content": "Who may pass?"}], **fields}


def request(tenant: Tenant, body: bytes | Mapping[str, Any], *, path: str = CHAT, **headers: str) -> bytes:
    """A whole request; `headers` (underscores become hyphens) are added or replace ours, an empty one is left out."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {
        "host": "sekisho",
        "authorization": f"Bearer {tenant.key}",
        "content-type": "application/json",
        "content-length": str(len(data)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + data


async def exchange(stack: Listening, data: bytes) -> Answer:
    """Send `data` on a connection of its own and read the one answer."""
    async with connected(stack) as wire:
        await wire.send(data)
        return await wire.answer()
