"""A unix socket in front of a store, so that a test can take the store away from one process and leave it to others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

BLOCK_BYTES = 65_536


class Forwarder:
    """Passes bytes on in both directions. `away` True: whoever is connected is cut off, and nobody new gets in.
    `mute` True: what is asked still arrives, and no answer comes back before the connection is cut."""

    def __init__(self, target: Path, listens: Path) -> None:
        self._target, self._listens = target, listens
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.mute = False
        self.swallowed = 0

    async def open(self) -> None:
        """Let everybody in."""
        self.mute = False
        self._server = await asyncio.start_unix_server(self._accept, str(self._listens))

    async def cut(self) -> None:
        """Be away: connections end, the socket is gone."""
        if self._server is not None:
            self._server.close()
            self._listens.unlink(missing_ok=True)
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_unix_connection(str(self._target))
            ends = {writer, far_writer}
            self._writers |= ends
            there = asyncio.create_task(self._pass_on(reader, far_writer))
            back = asyncio.create_task(self._pass_back(far_reader, writer))
            await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.transport.abort()
            await asyncio.wait([there, back])
            self._writers -= ends
        writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(BLOCK_BYTES):
                writer.write(block)
                await writer.drain()

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(BLOCK_BYTES):
                if self.mute:
                    self.swallowed += 1
                    return
                writer.write(block)
                await writer.drain()


@contextlib.asynccontextmanager
async def forwarder(target: Path, listens: Path) -> AsyncIterator[Forwarder]:
    """A forwarder that is open; gone at the end."""
    made = Forwarder(target, listens)
    await made.open()
    try:
        yield made
    finally:
        await made.cut()
