"""Ed25519 keys (RFC 8032) that sign licences. A key's id is the SHA-256 of its SubjectPublicKeyInfo (RFC 8410), hex."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32
# RFC 8410 §4: an Ed25519 SubjectPublicKeyInfo is this prefix and the 32 bytes of the key.
_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")


class KeyFileError(ValueError):
    """The file holds no unencrypted Ed25519 private key in PEM."""


def key_id_of(public_key: bytes) -> str:
    """The id of a public key of 32 bytes."""
    return hashlib.sha256(_SPKI_PREFIX + public_key).hexdigest()


def signature_is_valid(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is the key's signature of `data`; False also for a key that is no point of the curve."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


class SigningKey:
    """A private key. Its text form never appears in `repr`."""

    __slots__ = ("_private", "key_id", "public_bytes")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_bytes = private.public_key().public_bytes_raw()
        self.key_id = key_id_of(self.public_bytes)

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id})"

    @classmethod
    def generate(cls) -> Self:
        """A new random key."""
        return cls(Ed25519PrivateKey.generate())

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`, 64 bytes."""
        return self._private.sign(data)

    def to_pem(self) -> bytes:
        """The key as PKCS #8 in PEM, not encrypted."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """The key of a PEM text. Raises `KeyFileError`."""
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"no unencrypted private key in PEM: {error}") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileError("the private key is not an Ed25519 key")
        return cls(private)

    def write(self, path: Path) -> None:
        """Write the PEM file, readable by its owner only. An existing file is never overwritten (`FileExistsError`)."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.to_pem())
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # fails where `path` exists, and shows no half-written key
        finally:
            draft.unlink()

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key of a PEM file. Raises `OSError` or `KeyFileError`."""
        return cls.from_pem(path.read_bytes())
