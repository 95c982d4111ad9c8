"""Who may read records: whoever shows a token of the token file."""

from __future__ import annotations

import hmac
from pathlib import Path


class Access:
    """Checks the Authorization header against a file of tokens, one a line. Every line is accepted, so that a token can
    be replaced while clients still use the old one: put the new one first, drop the old one later. The file is read
    again when it changes. None for no file: everybody may read."""

    def __init__(self, token_file: Path | None) -> None:
        self._file = token_file
        self._stamp: tuple[int, int, int] | None = None
        self._tokens: list[bytes] = []

    def tokens(self) -> list[bytes]:
        """The tokens of the file as it is now; none when it is away or empty, and then nobody may read."""
        if self._file is None:
            return []
        try:
            found = self._file.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp:
                lines = self._file.read_bytes().splitlines()
                self._tokens = [token for line in lines if (token := line.strip())]
                self._stamp = stamp
        except OSError:
            self._stamp, self._tokens = None, []
        return self._tokens

    def allows(self, authorization: str | None) -> bool:
        """Whether a request with this header may read."""
        if self._file is None:
            return True
        kind, _, shown = (authorization or "").partition(" ")
        presented = shown.strip().encode("utf-8", "surrogateescape")
        # all are compared, in constant time each: nothing is told by how long it takes
        matches = [hmac.compare_digest(token, presented) for token in self.tokens()]
        return kind.lower() == "bearer" and any(matches)
