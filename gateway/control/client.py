"""Asks the admin plane, for the command line and for programs of an operator.

AdminClient       one plane and one key
Refused           the plane's answer is an error; `code` is stable
Unreachable       no plane is known, or it does not answer
"""

import http.client
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from gateway.faults import Language

ANSWER_S_MAX = 60.0
ANSWER_BYTES_MAX = 256 * 1024 * 1024
REQUEST_BYTES_MAX = 2 * 1024 * 1024  # what the plane takes
_FILE_NAME = re.compile(r'filename="([A-Za-z0-9-][A-Za-z0-9.-]{0,199})"')
_PRINTABLE = re.compile(r"[!-~]+")


class Unreachable(OSError):
    """The plane cannot be asked; the text says why and what to do."""


class Refused(Exception):
    """The plane refused. `error` is the error object of `docs/admin.md`."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(status, error.get("code"))
        self.status = status
        self.error = error

    @property
    def code(self) -> str:
        """The stable code."""
        return str(self.error.get("code", "internal"))


@dataclass(frozen=True, slots=True)
class File:
    """An answer that is meant to be saved; `name` is '' or the name of a file, without folders."""

    body: bytes
    name: str


class AdminClient:
    """Asks the plane at `url` (ends in `/admin/v1`) with the admin key `key`; texts come in `language`."""

    def __init__(self, url: str, key: str, language: Language = "en") -> None:
        if _PRINTABLE.fullmatch(key) is None:
            raise Unreachable("the admin key holds characters that no key has: give it as it was shown")
        self._parts = _parts_of(url)
        self._headers = {"authorization": f"Bearer {key}", "accept-language": language}

    def get(self, path: str, **query: object) -> Any:
        """The answer to `GET`; parameters that are None are left out. Raises `Refused` or `Unreachable`."""
        return self._ask("GET", _asking(path, query), None)

    def post(self, path: str, body: Mapping[str, Any] | None = None, within_s: float = ANSWER_S_MAX) -> Any:
        """The answer to `POST`, waited for `within_s`. Raises `Refused` or `Unreachable`."""
        return self._ask("POST", path, body, within_s)

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to `PATCH`. Raises `Refused` or `Unreachable`."""
        return self._ask("PATCH", path, body)

    def file(self, path: str, **query: object) -> "File":
        """An answer that is a file. Raises `Refused` or `Unreachable`."""
        status, answer, disposition = self._send("GET", _asking(path, query), None)
        if 200 <= status < 300:
            return File(answer, _name_in(disposition))
        raise _error(status, answer, self._parts.geturl())

    def delete(self, path: str) -> Any:
        """The answer to `DELETE`. Raises `Refused` or `Unreachable`."""
        return self._ask("DELETE", path, None)

    def pages(self, path: str, **query: object) -> Iterator[dict[str, Any]]:
        """All rows of a list, page by page."""
        after = None
        while True:
            answer = self.get(path, limit=1_000, after=after, **query)
            yield from answer["data"]
            after = answer["next"]
            if after is None:
                return

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, within_s: float = ANSWER_S_MAX) -> Any:
        status, answer, _ = self._send(method, path, body, within_s)
        return _read(status, answer, self._parts.geturl())

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, within_s: float = ANSWER_S_MAX
    ) -> tuple[int, bytes, str]:
        headers = dict(self._headers)
        payload = None
        if body is not None:
            payload = json.dumps(body, ensure_ascii=False).encode()
            headers["content-type"] = "application/json"
            if len(payload) > REQUEST_BYTES_MAX:
                raise Unreachable(f"what is to be sent is too large: more than {REQUEST_BYTES_MAX} bytes")
        connection = self._connection(within_s)
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, payload, headers)
            response = connection.getresponse()
            return response.status, response.read(ANSWER_BYTES_MAX), response.getheader("content-disposition", "")
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            raise Unreachable(f"the admin plane at {self._parts.geturl()} does not answer: {error!r}") from error
        finally:
            connection.close()

    def _connection(self, within_s: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        assert self._parts.hostname is not None
        return kind(self._parts.hostname, self._parts.port, timeout=within_s)


def _name_in(disposition: str) -> str:
    found = _FILE_NAME.search(disposition)
    return "" if found is None else found[1]


def _asking(path: str, query: Mapping[str, object]) -> str:
    asked = urlencode({name: str(value) for name, value in query.items() if value is not None})
    return f"{path}?{asked}" if asked else path


def _parts_of(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known or _PRINTABLE.fullmatch(url) is None:
        raise Unreachable(f"{url!r} is no address of an admin plane, such as http://127.0.0.1:8082/admin/v1")
    return parts


def part(text: str) -> str:
    """An id as one part of a path."""
    return quote(text, safe="")


def find_admin(
    data_dir: Path, *, url: str | None = None, key_file: Path | None = None, language: Language = "en"
) -> AdminClient:
    """The plane and key of the options, else of SEKISHO_ADMIN_URL and SEKISHO_ADMIN_KEY, else of the stack that
    `sekisho up` runs on `data_dir`. Raises `Unreachable` where one is not known."""
    noted = _noted(data_dir)
    found_url = url or os.environ.get("SEKISHO_ADMIN_URL") or noted.get("admin_url")
    found_key = _key_of(key_file) or os.environ.get("SEKISHO_ADMIN_KEY") or noted.get("admin_key")
    if not found_url or not found_key:
        missing = "SEKISHO_ADMIN_KEY" if found_url else "SEKISHO_ADMIN_URL"
        raise Unreachable(f"no admin plane is known: set {missing}, or run `sekisho up` on {data_dir}")
    return AdminClient(found_url, found_key, language)


def _key_of(path: Path | None) -> str:
    return "" if path is None else path.read_text(encoding="utf-8", errors="replace").strip()


def _noted(data_dir: Path) -> dict[str, str]:
    try:
        noted = json.loads((data_dir / "up.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    values = noted if isinstance(noted, dict) else {}
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _read(status: int, answer: bytes, url: str) -> Any:
    if 200 <= status < 300:
        return _json_of(status, answer, url)
    raise _error(status, answer, url)


def _error(status: int, answer: bytes, url: str) -> Refused:
    value = _json_of(status, answer, url)
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, dict):
        raise Unreachable(f"{url} answered {status}: is it an admin plane?")
    return Refused(status, error)


def _json_of(status: int, answer: bytes, url: str) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        raise Unreachable(f"{url} answered {status} with something that is no JSON: is it an admin plane?") from None
