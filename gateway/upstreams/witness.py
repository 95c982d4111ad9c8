"""The engine's own record of an attempt, asked over HTTP where an upstream keeps one: one attempt, or all of them page
by page. None always means "not now": the engine does not answer, or not as a witness does, or wants another token."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlencode

import msgspec

from billing.types import Usage
from gateway.upstreams.client import UpstreamClient
from gateway.upstreams.types import Upstream

_LOG = logging.getLogger(__name__)

POLL_S = 0.05
QUERY_S_MAX = 1.0
PAGE_S_MAX = 10.0
PAGE_RECORDS_MAX = 5_000
_PAGE_BYTES_MAX = 16 * 1024 * 1024

_T = TypeVar("_T")
State = Literal["running", "finished", "aborted", "unknown"]


class _Answer(msgspec.Struct):
    state: State
    attempt_id: str = ""
    model: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    finish_reason: str | None = None
    started_at: float = 0.0
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What the engine wrote down of one attempt. Times in microseconds since the epoch, on the engine's clock."""

    attempt_id: str
    model: str
    state: State
    usage: Usage
    finish_reason: str
    started_at_us: int
    ended_at_us: int | None


class WitnessFile(msgspec.Struct, frozen=True):
    """One of an engine's record files, with the bytes of it that can be read by now."""

    file: str
    size: int


class _Files(msgspec.Struct):
    files: list[WitnessFile]


class _Page(msgspec.Struct):
    file: str
    next: int
    more: bool
    records: list[_Answer]


@dataclass(frozen=True, slots=True)
class Page:
    """Records in the order in which attempts ended. `next` is where the next page begins; with `more` there is
    something in it already."""

    file: str
    next: int
    more: bool
    records: list[EngineRecord]


class Witness:
    """Asks engines for their records, showing the first line of `token_file` where there is one."""

    def __init__(self, client: UpstreamClient, token_file: Path | None = None) -> None:
        self._client = client
        self._token = _Token(token_file)

    async def ask(self, witness_url: str, attempt_id: str) -> EngineRecord | None:
        """The record of `attempt_id`; one in the state `unknown` when the engine answers that it has none."""
        said = await self._client.get(f"{witness_url}/{attempt_id}", QUERY_S_MAX, self._token.headers())
        if said is None or said[0] not in (200, 404):
            return None
        answer = _decoded(said[1], _Answer)
        # A 404 of anybody else on the way says nothing about the attempt.
        if answer is None or (said[0] == 404) != (answer.state == "unknown"):
            return None
        return _record(answer, attempt_id)

    async def final(self, upstream: Upstream, attempt_id: str, wait_s: float) -> EngineRecord | None:
        """The record once the engine has ended the attempt, waiting `wait_s` seconds at most."""
        if upstream.witness_url is None:
            return None
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    record = await self.ask(upstream.witness_url, attempt_id)
                    if record is not None and record.state in ("finished", "aborted"):
                        return record
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return None

    async def files(self, witness_url: str) -> list[WitnessFile] | None:
        """The engine's record files, oldest first."""
        body = await self._client.get_json(witness_url, PAGE_S_MAX, self._token.headers(), _PAGE_BYTES_MAX)
        found = _decoded(body, _Files)
        return None if found is None else found.files

    async def page(self, witness_url: str, file: str, after: int, limit: int) -> Page | None:
        """Up to `limit` (5,000 at most) ended attempts of `file` from byte `after` on."""
        query = urlencode({"file": file, "after": after, "limit": limit})
        url = f"{witness_url}?{query}"
        body = await self._client.get_json(url, PAGE_S_MAX, self._token.headers(), _PAGE_BYTES_MAX)
        found = _decoded(body, _Page)
        if found is None:
            return None
        records = [_record(answer, answer.attempt_id) for answer in found.records]
        return Page(found.file, found.next, found.more, [record for record in records if record is not None])


class _Token:
    """The token as it is in the file now, read again when that changes."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._stamp: tuple[int, int] | None = None
        self._headers: Mapping[str, str] = {}

    def headers(self) -> Mapping[str, str]:
        """What to send; nothing where there is no token."""
        try:
            found = None if self._file is None else self._file.stat()
            stamp = None if found is None else (found.st_mtime_ns, found.st_ino)
            if stamp != self._stamp:
                self._headers = self._read()
                self._stamp = stamp
        except OSError:
            self._stamp, self._headers = None, {}
        return self._headers

    def _read(self) -> Mapping[str, str]:
        first = "" if self._file is None else self._file.read_text(encoding="ascii").partition("\n")[0].strip()
        return {"authorization": f"Bearer {first}"} if first else {}


def _decoded(body: bytes | None, kind: type[_T]) -> _T | None:
    if body is None:
        return None
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError:
        return None


def _record(answer: _Answer, attempt_id: str) -> EngineRecord | None:
    """A record that contradicts itself is none."""
    usage = Usage(
        prompt=answer.prompt_tokens,
        cached=answer.cached_tokens,
        completion=answer.completion_tokens,
        reasoning=answer.reasoning_tokens,
        image=answer.image_tokens,
        audio=answer.audio_tokens,
    )
    if not usage.consistent:
        _LOG.error("the record of %s contradicts itself: %s", attempt_id, usage)
        return None
    ended_at = None if answer.ended_at is None else round(answer.ended_at * 1_000_000)
    return EngineRecord(
        attempt_id=attempt_id,
        model=answer.model,
        state=answer.state,
        usage=usage,
        finish_reason=answer.finish_reason or "",
        started_at_us=round(answer.started_at * 1_000_000),
        ended_at_us=ended_at,
    )
