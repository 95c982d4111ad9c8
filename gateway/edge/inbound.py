"""One HTTP request and its response, over ASGI: bounded body, errors in the dialect, and the client's departure."""

import asyncio
from typing import Any, cast

from starlette.types import Receive, Scope, Send

from billing.types import Outcome
from gateway.edge.document import Document
from gateway.edge.openai import error_body
from gateway.edge.parse import Census
from gateway.edge.uploads import Uploads
from gateway.faults import Fault, Language, language_of
from gateway.identity.presented import presented_of
from gateway.identity.settings import Networks

BODY_BYTES_MAX = 10 * 1024 * 1024
UNCOUNTED_BYTES_MAX = 64 * 1024
BODY_S_MAX = 30.0
WRITE_S_MAX = 30.0
# What a refused upload may still send before the connection closes: enough for a client that reads only afterwards.
DRAIN_BYTES_MAX = 32 * 1024 * 1024
DRAIN_S_MAX = 2.0
DRAIN_PAUSE_S = 0.005

_UPLOADS = Uploads()
_JSON_TYPES = ("application/json", "text/json")


class ClientGone(Exception):
    """The client closed the connection."""


class Inbound:
    """The client's side of an exchange. `presented` are the caller's credentials, and where they come from; headers
    about the caller count only from the `trusted` networks."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, trusted: Networks = ()) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.presented = presented_of(scope, trusted)
        self._headers = cast("dict[bytes, bytes]", dict(scope["headers"]))
        self._watcher: asyncio.Task[None] | None = None
        self._drain = False
        self.census = Census()
        self.started = False
        self.ended = False
        self.gone = False

    def header(self, name: bytes) -> str | None:
        """A request header (lower-case `name`), decoded as HTTP does (RFC 9110 §5.5)."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    def header_values(self, name: bytes) -> list[str]:
        """All values of a request header (lower-case `name`), for those that must not be stated twice."""
        return [value.decode("latin-1") for header, value in self._scope["headers"] if header == name]

    @property
    def language(self) -> Language:
        """The language of error texts."""
        return language_of(self.header(b"accept-language") or "")

    @property
    def origin(self) -> str:
        """The client's address prefix (/24 or /48), for counting refusals without identifying a person."""
        host = self.presented.address
        return ":".join(host.split(":")[:3]) if ":" in host else ".".join(host.split(".")[:3])

    async def body(self) -> bytes:
        """The JSON body, at most 10 MiB, within 30 s. Raises `Fault` or `ClientGone`."""
        encoding = (self.header(b"content-encoding") or "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise Fault("unsupported_encoding")
        media_type = (self.header(b"content-type") or "application/json").partition(";")[0].strip().lower()
        if media_type not in _JSON_TYPES:
            raise Fault("unsupported_media_type")
        declared = self.header(b"content-length") or "0"
        if declared.isdigit() and int(declared) > BODY_BYTES_MAX:
            raise self._too_large()
        try:
            async with asyncio.timeout(BODY_S_MAX):
                return await self._read()
        except TimeoutError:
            raise Fault("request_timeout") from None

    async def _read(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body = cast("bytes", message.get("body", b""))
            if len(body) > UNCOUNTED_BYTES_MAX:
                self.census.add(body)
            return body
        try:
            return await self._join(message)
        finally:
            _UPLOADS.end(self)

    async def _join(self, message: Any) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                self.gone = True
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > BODY_BYTES_MAX:
                parts.clear()  # the exception keeps this frame alive while the rest is drained
                raise self._too_large()
            parts.append(part)
            self.census.add(part)
            if not message.get("more_body"):
                return b"".join(parts)
            await _UPLOADS.grow(self, len(part))
            message = await self._receive()

    def _too_large(self) -> Fault:
        self._drain = True
        return Fault("body_too_large", limit=BODY_BYTES_MAX)

    def watch(self) -> None:
        """From now on, cancel the current task when the client leaves; `gone` then tells why it was cancelled."""
        task = asyncio.current_task()
        if task is not None:
            self._watcher = asyncio.create_task(self._watch(task))

    async def _watch(self, task: "asyncio.Task[Any]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        self.gone = True
        task.cancel()

    def unwatch(self) -> None:
        """The exchange is over: the client may leave as it likes."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send status and headers."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, part: bytes) -> None:
        """Send a part of the body; a client that takes nothing for 30 s counts as gone."""
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
        except TimeoutError:
            self.gone = True
            raise ClientGone from None

    async def end(self, part: bytes = b"") -> None:
        """Send the last part of the body."""
        self.ended = True
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                await self._finish(part)
        except TimeoutError:
            self.gone = True
            raise ClientGone from None

    async def _finish(self, part: bytes) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": False})

    async def respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole response with a JSON body."""
        await self.start(
            status, [*headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        )
        await self.end(body)

    async def deliver(self, headers: list[tuple[bytes, bytes]], document: Document) -> None:
        """A good response whose body is `document`."""
        await self.start(200, [*headers, *document.headers, (b"content-length", b"%d" % len(document.body))])
        await self.end(document.body)

    async def refuse(self, fault: Fault, request_id: str, headers: list[tuple[bytes, bytes]]) -> None:
        """An error response in the dialect; an upload that was refused for its size is drained before the close."""
        body = error_body(fault, self.language, request_id)
        head = [
            *headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-sekisho-outcome", fault.code.outcome.encode()),
        ]
        head += [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in fault.headers.items()]
        if fault.retry_after_s is not None:
            head.append((b"retry-after", b"%d" % fault.retry_after_s))
        if fault.code.outcome is Outcome.REFUSED_QUOTA:
            head.append((b"x-should-retry", b"false"))
        if self._drain or fault.code.name == "request_timeout":
            head.append((b"connection", b"close"))
        await self.start(fault.code.status, head)
        if self._drain:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            await self._discard()
            body = b""
        await self.end(body)

    async def _discard(self) -> None:
        size = 0
        try:
            async with asyncio.timeout(DRAIN_S_MAX):
                while size < DRAIN_BYTES_MAX:
                    message = await self._receive()
                    size += len(message.get("body", b""))
                    await asyncio.sleep(DRAIN_PAUSE_S)
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return
        except TimeoutError:
            return
