"""The records over HTTP, for an engine that serves its own and for the reader process.

    GET /witness/{attempt_id}                        one record; 404 {"state": "unknown"}
    GET /witness                                     {"files": [{"file", "size"}]}
    GET /witness?file=F&after=BYTES&limit=N          {"file", "next", "more", "records"}: finished and aborted ones only

With a token file every call needs `Authorization: Bearer <token>`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from aiohttp import web

from serving.witness.access import Access
from serving.witness.pages import LIMIT_MAX
from serving.witness.types import FileSize, Page, Witness

PATH = "/witness"
_HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-store"}
_LIMIT_DEFAULT = 1_000


class Records(Protocol):
    """Where records come from. `files` and `page` are called in a thread."""

    async def find(self, attempt_id: str) -> Witness | None:
        """The latest record of an attempt."""

    def files(self) -> list[FileSize]:
        """All record files, oldest first."""

    def page(self, file: str, after: int, limit: int) -> Page | None:
        """A page of one of `files`; None when there is no such file."""


class WitnessRoutes:
    """The routes over `records`, for those whom `access` lets in."""

    def __init__(self, records: Records, access: Access) -> None:
        self._records, self._access = records, access

    def routes(self) -> list[web.RouteDef]:
        """To be added to an application."""
        guarded = self._guarded
        return [web.get(PATH + "/{attempt_id}", guarded(self._one)), web.get(PATH, guarded(self._many))]

    def _guarded(
        self, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def checked(request: web.Request) -> web.Response:
            if self._access.allows(request.headers.get("Authorization")):
                return await handler(request)
            cure = "send Authorization: Bearer with a line of the witness's token file"
            response = _refused(401, "invalid_token", "authorization", "this call needs the witness's token", cure)
            response.headers["WWW-Authenticate"] = "Bearer"
            return response

        return checked

    async def _one(self, request: web.Request) -> web.Response:
        attempt_id = request.match_info["attempt_id"]
        found = await self._records.find(attempt_id)
        if found is None:
            return _json({"attempt_id": attempt_id, "state": "unknown"}, 404)
        return _json(found)

    async def _many(self, request: web.Request) -> web.Response:
        file = request.query.get("file")
        if file is None:
            return _json({"files": await asyncio.to_thread(self._records.files)})
        after, limit = _number(request, "after", 0), _number(request, "limit", _LIMIT_DEFAULT)
        if after is None:
            return _refused(400, "invalid_number", "after", "not a number of bytes", "send the `next` of the last page")
        if limit is None or not 0 < limit <= LIMIT_MAX:
            cure = f"send a number from 1 to {LIMIT_MAX}"
            return _refused(400, "invalid_number", "limit", "not a number of records per page", cure)
        page = await asyncio.to_thread(self._records.page, file, after, limit)
        if page is None:
            cure = f"take one of those that GET {PATH} names"
            return _refused(404, "unknown_file", "file", "there is no such record file (any more)", cure)
        return _json(page)


def _number(request: web.Request, name: str, default: int) -> int | None:
    text = request.query.get(name, "")
    if not text:
        return default
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, headers=_HEADERS)


def _refused(status: int, code: str, field: str, message: str, cure: str) -> web.Response:
    return _json({"error": {"code": code, "field": field, "message": message, "cure": cure}}, status)
