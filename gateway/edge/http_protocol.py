"""HTTP/1.1 with deadlines: uvicorn's httptools protocol, plus a time limit and a size limit for headers.

uvicorn waits for ever for a header block to end and keeps all of it; both are how a slow or endless client holds a
connection for nothing (slow-loris). Here the block has 10 s from its first byte, 32 KiB and 100 fields.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.edge.openai import error_body
from gateway.faults import Fault

HEADER_S_MAX = 10.0
HEADER_BYTES_MAX = 32 * 1024
HEADER_FIELDS_MAX = 100


class SekishoProtocol(HttpToolsProtocol):
    """One connection. The header deadline runs from the opening of the connection, and again from the first byte of
    each further request; between requests uvicorn's keep-alive time-out rules."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            if self._deadline is None:
                self._arm()
            self._header_bytes += len(data)
        super().data_received(data)
        # A body that came along with the headers is not counted: then the headers are complete by now.
        if self._in_headers and self._header_bytes > HEADER_BYTES_MAX:
            self._refuse(Fault("headers_too_large"))

    def on_message_begin(self) -> None:
        self._in_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._disarm()
        self._in_headers = False
        self._header_bytes = 0
        if len(self.headers) > HEADER_FIELDS_MAX:
            self._refuse(Fault("headers_too_large"))
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_headers = True

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to bytes that are no HTTP, in the form of all our errors."""
        self._refuse(Fault("malformed_http", internal=msg))

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(HEADER_S_MAX, self._expired)

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
        body = error_body(fault, "en", "")
        self.transport.write(
            STATUS_LINE.get(fault.code.status, b"HTTP/1.1 431 \r\n")
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()
