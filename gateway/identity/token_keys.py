"""The keys that sign the gateway's own access tokens: a file that all processes of an installation share.

`<data_dir>/secrets/token_keys.json` (mode 0600) holds the current key and, for as long as its tokens can live, the one
before it. Each process looks every second whether the file has changed, and at once when it meets an unknown key id.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from gateway.identity.jose import Rejected, VerifyingKey, verifying_key
from gateway.identity.secrets import create_private, write_private

_LOG = logging.getLogger(__name__)

ALGORITHM = "Ed25519"
LOOK_US = 1_000_000


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The signing key, and all public keys by key id (its thumbprint, RFC 7638)."""

    current: OKPKey
    public: Mapping[str, VerifyingKey]
    jwks: Mapping[str, Any]


class TokenKeys:
    """The key ring of one installation, read again when its file changes."""

    def __init__(self, data_dir: Path) -> None:
        self._path = _path(data_dir)
        if not self._path.exists():
            create_private(self._path, json.dumps({"keys": [_generate()]}))
        self._looked_at = 0
        self._stamp = (0, 0)
        self._ring = self._read()

    def ring(self, now: int) -> KeyRing:
        """The keys as the file has them, at most a second old. `now` in microseconds since the epoch."""
        if now - self._looked_at >= LOOK_US:
            self._looked_at = now
            self._look()
        return self._ring

    def find(self, key_id: str | None, now: int) -> VerifyingKey | None:
        """The public key `key_id`, or None. A key that was dropped is unknown within a second, a new one at once."""
        if key_id is None:
            return None
        found = self.ring(now).public.get(key_id)
        if found is None:
            self._look()
            found = self._ring.public.get(key_id)
        return found

    def _look(self) -> None:
        try:
            stat = self._path.stat()
            if (stat.st_mtime_ns, stat.st_ino) != self._stamp:
                self._ring = self._read()
        except (OSError, ValueError, KeyError, IndexError, JoseError, Rejected) as error:
            _LOG.error("token keys are not readable, the ones known serve on: %r", error)

    def _read(self) -> KeyRing:
        stat = self._path.stat()
        stored = json.loads(self._path.read_text(encoding="utf-8"))["keys"]
        self._stamp = (stat.st_mtime_ns, stat.st_ino)
        keys = [OKPKey.import_key(value) for value in stored]
        jwks = {"keys": [key.as_dict(private=False, use="sig", alg=ALGORITHM) for key in keys]}
        public = {str(value["kid"]): verifying_key(value) for value in jwks["keys"]}
        return KeyRing(keys[0], public, jwks)


def rotate(data_dir: Path) -> str:
    """Sign with a new key from now on and keep the one before it for tokens under way; returns the new key id.

    Rotating twice within the life of a token (10 min) ends the tokens of the older key.
    """
    path = _path(data_dir)
    before = json.loads(path.read_text(encoding="utf-8"))["keys"] if path.exists() else []
    key = _generate()
    write_private(path, json.dumps({"keys": [key, *before[:1]]}))
    return str(key["kid"])


def _path(data_dir: Path) -> Path:
    return data_dir / "secrets" / "token_keys.json"


def _generate() -> dict[str, Any]:
    key = OKPKey.generate_key("Ed25519")
    return {**key.as_dict(private=True), "kid": key.thumbprint()}
