"""API keys `sk_<env>_<keyid>_<secret><crc>`, and administrators' keys, which differ in the prefix `ska_`.

`keyid` (12 characters) finds the row, `secret` (32 characters, 190 bits) proves possession, `crc` (6 characters,
base-62 CRC-32 of everything before it) lets scanners and clients tell a typing error from a wrong key. Only
HMAC-SHA-256(pepper, key) is stored; the key itself is shown once.
"""

import hmac
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

Prefix = Literal["sk", "ska"]

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ALPHABET_SET = frozenset(_ALPHABET)
KEY_ID_CHARS = 12
SECRET_CHARS = 32
CRC_CHARS = 6
KEY_CHARS_MAX = 96
_BLANK_MAC = bytes(32)


@dataclass(frozen=True, slots=True)
class Pepper:
    """Server-side secret of the HMAC; `pepper_id` is stored with each row so that peppers can rotate."""

    pepper_id: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment its text is known."""

    text: str
    key_id: str
    mac: bytes
    pepper_id: str


def _random(chars: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(chars))


def _crc(text: str) -> str:
    value, digits = zlib.crc32(text.encode("ascii")), ""
    for _ in range(CRC_CHARS):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


def mac_of(text: str, pepper: Pepper) -> bytes:
    """HMAC-SHA-256 (RFC 2104) of the whole key text."""
    return hmac.digest(pepper.secret, text.encode("ascii"), "sha256")


def new_key(environment: str, pepper: Pepper, prefix: Prefix = "sk") -> NewKey:
    """A fresh key for `environment` (lower-case letters, e.g. `live`, `test`, `demo`)."""
    if not (environment.isascii() and environment.isalpha() and environment.islower()):
        raise ValueError("the environment of a key is lower-case letters")
    key_id = _random(KEY_ID_CHARS)
    body = f"{prefix}_{environment}_{key_id}_{_random(SECRET_CHARS)}"
    text = body + _crc(body)
    return NewKey(text, key_id, mac_of(text, pepper), pepper.pepper_id)


def key_id_of(text: str, prefix: Prefix = "sk") -> str | None:
    """The key id in a well-formed key with this prefix and a right checksum, else None."""
    if not text.isascii() or len(text) > KEY_CHARS_MAX:
        return None
    head, _, rest = text.partition("_")
    environment, _, rest = rest.partition("_")
    key_id, _, tail = rest.partition("_")
    if head != prefix or not environment.isalpha() or len(key_id) != KEY_ID_CHARS:
        return None
    if len(tail) != SECRET_CHARS + CRC_CHARS or not _ALPHABET_SET.issuperset(tail):
        return None
    return key_id if _crc(text[:-CRC_CHARS]) == text[-CRC_CHARS:] else None


class Stored(Protocol):
    """What is stored of a key: its HMAC, and the id of the pepper it was made with."""

    @property
    def mac(self) -> bytes:
        """HMAC-SHA-256 of the key's text."""

    @property
    def pepper_id(self) -> str:
        """Which pepper."""


def matches(text: str, stored: Stored | None, peppers: Mapping[str, Pepper]) -> bool:
    """Whether `text` is the key that `stored` was made of, in time that depends neither on where they differ nor on
    whether there is such a key."""
    mac, pepper_id = (_BLANK_MAC, next(iter(peppers))) if stored is None else (stored.mac, stored.pepper_id)
    pepper = peppers.get(pepper_id)
    return pepper is not None and hmac.compare_digest(mac_of(text, pepper), mac) and stored is not None
