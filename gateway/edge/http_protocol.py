"""HTTP/1.1 with deadlines: uvicorn's httptools protocol, plus time and size limits for what uvicorn takes for ever.

uvicorn waits for ever for a header block to end and keeps all of it, trailers too, and once it has answered it reads
the rest of a body for ever; each is how a slow or endless client holds a connection for nothing (slow-loris). Here the
block has 10 s from its first byte, 32 KiB and 100 fields, trailers count as headers, and what a request still sends
after its answer has 10 s as well.

Where TLS ends here, the client's certificate goes into each request's scope; see `gateway.identity.presented`.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.edge.openai import error_body
from gateway.faults import Fault
from gateway.identity.presented import TLS_EXTENSION

HEADER_S_MAX = 10.0
HEADER_BYTES_MAX = 32 * 1024
HEADER_FIELDS_MAX = 100
UNREAD_S_MAX = 10.0


class SekishoProtocol(HttpToolsProtocol):
    """One connection. The header deadline runs from the opening of the connection, and again from the first byte of
    each further request; between requests uvicorn's keep-alive time-out rules."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._field_bytes = 0
        self._in_headers = True
        self._message_complete = True
        self._answering: Any = None
        self._certificate: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._certificate = tls.getpeercert(binary_form=True)  # None when the client showed none
        self._arm(HEADER_S_MAX)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        # uvicorn tells the request that came last; with pipelining the one being answered is an earlier one.
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            if self._deadline is None:
                self._arm(HEADER_S_MAX)
            self._header_bytes += len(data)
        super().data_received(data)
        # A body that came along with the headers is not counted: then the headers are complete by now.
        if self._in_headers and self._header_bytes > HEADER_BYTES_MAX:
            self._refuse(Fault("headers_too_large"))

    def on_message_begin(self) -> None:
        self._in_headers = True
        self._message_complete = False
        self._field_bytes = 0
        super().on_message_begin()
        if self._certificate is not None:
            self.scope["extensions"] = {TLS_EXTENSION: {"client_certificate": self._certificate}}

    def on_url(self, url: bytes) -> None:
        self._field_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._field_bytes += len(name) + len(value)
        if not self._in_headers:
            # A trailer. Nobody reads those, and one must not turn into a header of a request already judged.
            if self._field_bytes > HEADER_BYTES_MAX:
                self._refuse(Fault("headers_too_large"))
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm()
        self._in_headers = False
        self._header_bytes = 0
        if len(self.headers) > HEADER_FIELDS_MAX or self._field_bytes > HEADER_BYTES_MAX:
            self._refuse(Fault("headers_too_large"))
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_headers = True
        self._message_complete = True
        self._disarm()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._message_complete and self._deadline is None:
            self._arm(UNREAD_S_MAX)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to bytes that are no HTTP, in the form of all our errors."""
        self._refuse(Fault("malformed_http", internal=msg))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _arm(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._expired)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expired(self) -> None:
        self._deadline = None
        if self._header_bytes == 0:
            self.transport.close()  # an idle connection that never asked anything is owed no answer
        else:
            self._refuse(Fault("request_timeout"))

    def _refuse(self, fault: Fault) -> None:
        if self.transport.is_closing():
            return
        answering = self._answering
        if answering is not None and answering.response_started and not answering.response_complete:
            self.transport.close()  # in the middle of another answer there is no place for this one
            return
        body = error_body(fault, "en", "")
        self.transport.write(
            STATUS_LINE.get(fault.code.status, b"HTTP/1.1 431 \r\n")
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()
