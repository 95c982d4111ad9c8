"""The HTTP client to the engines: one session per loop, no redirects, no cookies, no proxy from the environment.

    UpstreamError
    ├── Unreached    the engine certainly delivered nothing: it may be tried again
    ├── Rejected     the engine answered with an error status
    ├── Broken       the answer ended early or is not what it should be
    └── Late         a phase took longer than allowed

Every exception of the HTTP library is translated here, once.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

ANSWER_BYTES_MAX = 64 * 1024 * 1024
EVENT_BYTES_MAX = 4 * 1024 * 1024
ERROR_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds per phase: connecting, first byte of the answer, silence between bytes, the whole exchange."""

    connect_s: float = 2.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 600.0


class UpstreamError(Exception):
    """An attempt failed."""


class Unreached(UpstreamError):
    """No answer was begun: connection refused or not made in time (`late`), or closed before the first byte."""

    def __init__(self, what: str, *, late: bool = False) -> None:
        super().__init__(what)
        self.late = late


class Rejected(UpstreamError):
    """The engine answered `status` with `body`."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}: {body[:200]!r}")
        self.status = status
        self.body = body


class Broken(UpstreamError):
    """The answer broke off or cannot be read."""


class Late(UpstreamError):
    """The phase named in `phase` took too long."""

    def __init__(self, phase: str) -> None:
        super().__init__(phase)
        self.phase = phase


class Answer:
    """The beginning of an engine's answer. Closing it before its end makes the engine stop (the connection closes)."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._pending = b""

    async def body(self) -> bytes:
        """The whole answer, 64 MiB at most."""
        try:
            content = self._response.content
            parts: list[bytes] = []
            size = 0
            async for part in content.iter_any():
                parts.append(part)
                size += len(part)
                if size > ANSWER_BYTES_MAX:
                    raise Broken(f"answer larger than {ANSWER_BYTES_MAX} bytes")
        except (aiohttp.ClientError, OSError) as error:
            raise Broken(repr(error)) from error
        return b"".join(parts)

    async def events(self) -> list[bytes] | None:
        """The `data` of the server-sent events that have arrived, at least one, or None at the end of the stream.

        WHATWG HTML §9.2; engines send one `data` line per event. Safe to cancel: what has arrived stays for the next
        call, which a generator would lose.
        """
        while True:
            try:
                part = await self._response.content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise Broken(repr(error)) from error
            if not part:
                return None
            lines = (self._pending + part).split(b"\n")
            self._pending = lines.pop()
            if len(self._pending) > EVENT_BYTES_MAX:
                raise Broken(f"event larger than {EVENT_BYTES_MAX} bytes")
            arrived = [line[5:].strip() for line in lines if line.startswith(b"data:")]
            if arrived:
                return arrived

    def release(self) -> None:
        """Give the connection back for reuse; the answer was read to its end."""
        self._response.release()

    def abort(self) -> None:
        """Close the connection, which makes the engine stop generating."""
        self._response.close()


class UpstreamClient:
    """Sends calls to engines. `connections_max` 0 means no limit: admission is decided before."""

    def __init__(self, timeouts: Timeouts, connections_max: int = 0) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections_max, ttl_dns_cache=30, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect_s),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            read_bufsize=2**17,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def post(self, url: str, body: bytes, attempt_id: str) -> Answer:
        """Begin an attempt. Raises `Unreached`, `Rejected` or `Late`."""
        headers = {"content-type": "application/json", "x-request-id": attempt_id}
        try:
            response = await self._session.post(url, data=body, headers=headers, allow_redirects=False)
        except aiohttp.ConnectionTimeoutError as error:
            raise Unreached("connect timed out", late=True) from error
        except (aiohttp.ClientConnectionError, ConnectionError) as error:
            raise Unreached(repr(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Broken(repr(error)) from error
        if response.status != 200:
            raise Rejected(response.status, await _error_body(response))
        return Answer(response)

    async def post_json(self, url: str, body: bytes) -> bytes | None:
        """The body of a POST answered with 200, at most 4 MiB, else None. The caller bounds the time."""
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                answer = bytearray()
                async for part in response.content.iter_any():
                    answer += part
                    if len(answer) > EVENT_BYTES_MAX:
                        return None
                return bytes(answer) if response.status == 200 else None
        except (aiohttp.ClientError, OSError):
            return None

    async def get_json(
        self,
        url: str,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        bytes_max: int = ERROR_BYTES_MAX,
    ) -> bytes | None:
        """The body of a GET answered with 200 within `timeout_s`, `bytes_max` at most, else None. For health and
        witness queries."""
        answer = await self.get(url, timeout_s, headers, bytes_max)
        return None if answer is None or answer[0] != 200 else answer[1]

    async def get(
        self, url: str, timeout_s: float, headers: Mapping[str, str] | None = None, bytes_max: int = ERROR_BYTES_MAX
    ) -> tuple[int, bytes] | None:
        """Status and body of a GET answered within `timeout_s`, None for no answer or one of more than `bytes_max`."""
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.get(url, headers=headers, allow_redirects=False) as response,
            ):
                body = bytearray()
                async for part in response.content.iter_any():
                    body += part
                    if len(body) > bytes_max:
                        return None
                return response.status, bytes(body)
        except (aiohttp.ClientError, OSError):
            return None


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    try:
        async with asyncio.timeout(5):
            return await response.content.read(ERROR_BYTES_MAX)
    except (aiohttp.ClientError, OSError):
        return b""
    finally:
        response.close()
