"""The tenants' encryption keys, kept outside PostgreSQL and its backups: whoever has only the book reads nothing, and a
key that is destroyed takes with it everything that was sealed under it (crypto-shredding).

    TenantKeys   what other rooms ask; a key service of production is another implementation of it
    KeyFiles     one file per tenant (0600) under `<data_dir>/secrets/tenants/`
    TenantKey    seals, opens and fingerprints; from each key one sub-key is derived per purpose (RFC 5869)

A sealed text is `0x01 ‖ key id (8) ‖ nonce (12) ‖ AES-256-GCM` (NIST SP 800-38D); the caller's `context` is
authenticated with it, so that what was sealed for one row opens in no other.
"""

import fcntl
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.identity.secrets import create_private, write_private

KEY_BYTES = 32
NONCE_BYTES = 12
OVERHEAD_BYTES = 1 + 8 + NONCE_BYTES + 16
_VERSION = b"\x01"
_KEY_ID_BYTES = 8
_TENANT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}", re.ASCII)


class Sealed(Exception):
    """The text cannot be opened: its key was destroyed, or it was sealed for something else."""


@dataclass(frozen=True, slots=True)
class TenantKey:
    """One key of one tenant. `key_id` names it for ever: 8 ASCII characters, random."""

    key_id: str
    secret: bytes = field(repr=False)

    def seal(self, purpose: str, text: bytes, context: bytes) -> bytes:
        """`text`, to be opened with the same purpose and context only."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = AESGCM(_derived(self.secret, purpose)).encrypt(nonce, text, context)
        return _VERSION + self.key_id.encode("ascii") + nonce + sealed

    def open(self, purpose: str, sealed: bytes, context: bytes) -> bytes:
        """What `seal` took. Raises `Sealed`."""
        start = 1 + _KEY_ID_BYTES
        nonce, body = sealed[start : start + NONCE_BYTES], sealed[start + NONCE_BYTES :]
        try:
            return AESGCM(_derived(self.secret, purpose)).decrypt(nonce, body, context)
        except (InvalidTag, ValueError) as error:
            raise Sealed(f"not sealed for this: {error!r}") from None

    def fingerprint(self, purpose: str, text: bytes) -> bytes:
        """HMAC-SHA-256: equal for equal texts, and says nothing of them to whoever has no key."""
        return hmac.digest(_derived(self.secret, purpose), text, "sha256")


class TenantKeys(Protocol):
    """Where tenants' keys are. `OSError` from any method: the store cannot be reached."""

    def current(self, tenant_id: str) -> TenantKey:
        """The key for new texts, made when the tenant has none yet."""

    def find(self, tenant_id: str, key_id: str) -> TenantKey | None:
        """An older or the current key; None when it was destroyed."""


def key_id_of(sealed: bytes) -> str:
    """The id of the key that a text was sealed under. Raises `Sealed` for what is no sealed text."""
    if len(sealed) < OVERHEAD_BYTES or sealed[:1] != _VERSION:
        raise Sealed("no sealed text")
    return sealed[1 : 1 + _KEY_ID_BYTES].decode("ascii", "replace")


def opened(keys: TenantKeys, tenant_id: str, purpose: str, sealed: bytes, context: bytes) -> bytes:
    """The text, under whichever of the tenant's keys it was sealed. Raises `Sealed`."""
    key = keys.find(tenant_id, key_id_of(sealed))
    if key is None:
        raise Sealed("its key was destroyed")
    return key.open(purpose, sealed, context)


@dataclass(frozen=True, slots=True)
class _File:
    """A tenant's file as it was read; `stamp` changes whenever the file does."""

    stamp: tuple[int, int, int]
    current: str
    keys: dict[str, TenantKey]


class KeyFiles:
    """Keys in files that only the owner reads. Several processes (and replicas on one mounted folder) may share them:
    a file appears whole or not at all, and changes of it come one at a time."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "secrets" / "tenants"
        self._read: dict[str, _File] = {}

    def current(self, tenant_id: str) -> TenantKey:
        """See `TenantKeys`."""
        file = self._file(tenant_id)
        if file is None:
            first = _new_key()
            create_private(self._path(tenant_id), _text(first.key_id, {first.key_id: first}))
            _settle(self._folder)
            file = self._file(tenant_id)
            if file is None:
                raise OSError(f"the keys of {tenant_id} were destroyed while they were made")
        return file.keys[file.current]

    def find(self, tenant_id: str, key_id: str) -> TenantKey | None:
        """See `TenantKeys`."""
        file = self._file(tenant_id)
        return None if file is None else file.keys.get(key_id)

    def rotate(self, tenant_id: str) -> str:
        """The id of a new key, under which everything is sealed from now on. Older keys still open what they sealed."""
        self.current(tenant_id)
        with self._alone():
            file = self._file(tenant_id)
            key = _new_key()
            kept = {} if file is None else file.keys
            write_private(self._path(tenant_id), _text(key.key_id, {**kept, key.key_id: key}))
            _settle(self._folder)
        return key.key_id

    def destroy(self, tenant_id: str) -> int:
        """Destroy all keys of a tenant and return how many. What they sealed can never be read again, by nobody; a
        later text gets a new key. Copies of the folder must be destroyed as well."""
        path = self._path(tenant_id)
        with self._alone():
            file = None
            with suppress(OSError):  # what cannot be read can be destroyed all the same
                file = self._file(tenant_id)
            self._read.pop(tenant_id, None)
            for copy in (path, *self._folder.glob(f"{path.name}.*"), *self._folder.glob(f".{path.name}.*")):
                _wipe(copy)  # besides the file, drafts that a process left when it died
            _settle(self._folder)
            return 0 if file is None else len(file.keys)

    def _path(self, tenant_id: str) -> Path:
        if _TENANT_ID.fullmatch(tenant_id) is None:
            raise ValueError(f"{tenant_id!r} is no tenant id")
        return self._folder / f"{tenant_id}.json"

    def _file(self, tenant_id: str) -> _File | None:
        """The file as it is now: another process may have rotated or destroyed its keys."""
        path = self._path(tenant_id)
        try:
            status = path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._read.get(tenant_id)
            if known is None or known.stamp != stamp:
                known = self._read[tenant_id] = _parsed(stamp, path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._read.pop(tenant_id, None)
            return None
        except (ValueError, KeyError, TypeError) as error:  # in the middle of its destruction, or damaged
            raise OSError(f"{path} is no key file: {error}") from None
        return known

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _new_key() -> TenantKey:
    return TenantKey(secrets.token_hex(_KEY_ID_BYTES // 2), secrets.token_bytes(KEY_BYTES))


def _text(current: str, keys: dict[str, TenantKey]) -> str:
    return json.dumps({"v": 1, "current": current, "keys": {name: key.secret.hex() for name, key in keys.items()}})


def _parsed(stamp: tuple[int, int, int], text: str) -> _File:
    stored = json.loads(text)
    keys = {name: TenantKey(name, bytes.fromhex(value)) for name, value in stored["keys"].items()}
    return _File(stamp, stored["current"], keys)


def _wipe(path: Path) -> None:
    with suppress(FileNotFoundError):
        with path.open("r+b") as stored:  # where the file system writes in place, nothing is left in free blocks
            stored.write(b"\0" * path.stat().st_size)
            stored.flush()
            os.fsync(stored.fileno())
        path.unlink()


def _settle(folder: Path) -> None:
    """What was renamed in `folder` survives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _derived(secret: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, None, b"sekisho/" + purpose.encode("ascii")).derive(secret)
