"""The door of the admin plane: nobody passes without an admin key, and no body is read before.

Behind it every request has its caller, an id, and a body that is one bounded JSON object.
"""

import asyncio
import logging
from typing import Any

import msgspec
import uuid_utils
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.clock import now_us
from gateway.control.plane import Caller, Plane
from gateway.control.refusals import Refusal, error_of, not_an_object, status_of
from gateway.edge.parse import parse_json
from gateway.edge.query import check_query
from gateway.faults import Fault, Language, language_of
from gateway.identity.presented import presented_of
from gateway.identity.refusals import too_many
from gateway.identity.service import COUNTED
from gateway.identity.settings import Networks
from gateway.identity.shared import FailedAttempts

_LOG = logging.getLogger(__name__)

BODY_BYTES_MAX = 2 * 1024 * 1024
BODY_S_MAX = 10.0
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class Door:
    """ASGI application in front of `app`. `trusted` are the networks of proxies that may tell a client's address."""

    def __init__(self, app: ASGIApp, plane: Plane, attempts: FailedAttempts, trusted: Networks = ()) -> None:
        self._app = app
        self._plane = plane
        self._attempts = attempts
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        assert scope["type"] == "http"
        request_id = str(uuid_utils.uuid7())
        try:
            caller = await self._caller(scope, request_id)
            check_query(scope["query_string"])
            body = await _body(scope, receive)
        except Exception as error:
            if not isinstance(error, Fault):
                _LOG.exception("%s", request_id)
            fault = error if isinstance(error, Fault) else Fault("internal")
            await refuse(send, fault, language_in(scope), request_id)
            return
        scope["state"] = {**scope.get("state", {}), "caller": caller}
        await self._serve(scope, _once(body, receive), _Answer(send, request_id))

    async def _serve(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self._app(scope, receive, answer)
        except Exception:
            # Starlette answers 500 and raises again, and the server would close the connection under the next request.
            if not answer.complete:
                raise
            _LOG.exception("%s", answer.request_id)

    async def _caller(self, scope: Scope, request_id: str) -> Caller:
        presented = presented_of(scope, self._trusted)
        try:
            actor = await self._plane.authenticate(presented.authorization)
        except Fault as fault:
            if fault.code.name in COUNTED and (wait_s := await self._attempts.count(presented.address, now_us())):
                raise too_many(wait_s) from fault
            raise
        return Caller(actor, request_id)


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The body of a request that has one, after checks of its form. Raises `Fault`."""
    if scope["method"] not in _WITH_BODY:
        return b""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    if headers.get(b"content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Fault("unsupported_encoding")
    try:
        async with asyncio.timeout(BODY_S_MAX):
            body = await _read(receive)
    except TimeoutError:
        raise Fault("request_timeout") from None
    if body:
        if headers.get(b"content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Fault("unsupported_media_type")
        try:
            parse_json(body, crowded=True)
        except Fault as fault:
            raise not_an_object() if fault.code.name == "invalid_type" else fault from None
    return body


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Fault("client_gone")
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            raise Fault("body_too_large", limit=BODY_BYTES_MAX)
        if not message.get("more_body"):
            return bytes(body)


def _once(body: bytes, receive: Receive) -> Receive:
    """`body` as the one message, then what the connection still says."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_once() -> Message:
        return left.pop() if left else await receive()

    return receive_once


class _Answer:
    """Sends an answer with the request's id; `complete` once all of it was sent."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.request_id = request_id
        self.complete = False
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode()), *_FIXED]
        await self._send(message)
        self.complete = message["type"] == "http.response.body" and not message.get("more_body")


_FIXED = [(b"cache-control", b"no-store")]  # answers carry keys that are shown once


def language_in(scope: Scope) -> Language:
    """The language that the request asks for."""
    return language_of(dict(scope["headers"]).get(b"accept-language", b"").decode("latin-1"))


def rendered(refusal: Refusal, language: Language, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a refusal. What is internal goes to the operator's log."""
    headers = {"content-type": "application/json"}
    if isinstance(refusal, Fault):
        headers.update(refusal.headers)
        if refusal.retry_after_s is not None:
            headers["retry-after"] = str(refusal.retry_after_s)
        if refusal.internal:
            _LOG.warning("%s: %s %s", request_id, refusal.code.name, refusal.internal)
    return status_of(refusal), headers, msgspec.json.encode({"error": error_of(refusal, language, request_id)})


async def refuse(send: Send, refusal: Refusal, language: Language, request_id: str) -> None:
    """Send a refusal; the connection closes, because the body may not have been read."""
    status, headers, body = rendered(refusal, language, request_id)
    headers |= {"content-length": str(len(body)), "connection": "close", "x-request-id": request_id}
    raw: Any = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": [*raw, *_FIXED]})
    await send({"type": "http.response.body", "body": body})
