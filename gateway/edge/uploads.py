"""The memory that unfinished bodies of all clients may take together."""

import asyncio

UPLOADS_BYTES_MAX = 24 * 1024 * 1024
# A large body arrives faster than anything else happens: every read of it makes all other requests wait a little, and
# each of those passes the loop a dozen times. So beyond the first megabyte the loop is left to them in between.
UNPACED_BYTES_MAX = 1024 * 1024
PAUSE_S = 0.002


class Uploads:
    """Bodies that are still arriving. Beyond the limit all wait but the oldest, so that one always comes to its end;
    who waits is not read from, and TCP makes its sender wait."""

    def __init__(self) -> None:
        self._held: dict[object, int] = {}  # bytes by upload, in the order of their beginning
        self._sum = 0
        self._room = asyncio.Event()

    async def grow(self, upload: object, size: int) -> None:
        """Another `size` bytes of `upload` have arrived: return when there is room to read on."""
        self._held[upload] = self._held.get(upload, 0) + size
        self._sum += size
        if self._held[upload] <= UNPACED_BYTES_MAX:
            return  # an ordinary body never waits for other people's large ones
        await asyncio.sleep(PAUSE_S)
        while self._sum > UPLOADS_BYTES_MAX and next(iter(self._held)) is not upload:
            self._room.clear()
            await self._room.wait()

    def end(self, upload: object) -> None:
        """`upload` is complete or given up."""
        self._sum -= self._held.pop(upload, 0)
        self._room.set()
