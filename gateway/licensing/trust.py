"""Whom a verifier trusts: the parties' public keys with their periods, and what it knows of the licences in force.

The file form (`<data dir>/licences/trust.json`) lets `sekisho licence verify` work without a database:

    {"v": 1,
     "keys": [{"key_id", "role", "party", "public_key" (base64), "not_before", "not_after", "revoked_at"}, …],
     "licences": {"<licence id>": {"version", "revoked", "digest"}, …}}

Times in the file are RFC 3339, in values microseconds since the epoch. A missing `not_after` or `revoked_at` is null.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from gateway.licensing.keys import PUBLIC_KEY_BYTES, key_id_of
from gateway.licensing.times import from_us, to_us

Role = Literal["issuer", "licensee"]


class TrustFileError(ValueError):
    """The trust file cannot be read as one."""


@dataclass(frozen=True, slots=True)
class TrustKey:
    """A public key of 32 bytes. `party` is the issuer's name, or for a licensee its tenant. Signatures count for
    contracts signed from `not_before` (inclusive) to `not_after` (exclusive; None: open), none once it is revoked.
    Microseconds since the epoch."""

    key_id: str
    role: Role
    party: str
    public_key: bytes
    not_before: int
    not_after: int | None = None
    revoked_at: int | None = None


@dataclass(frozen=True, slots=True)
class LicenceStatus:
    """The newest version of a licence, whether it is revoked, and the digest of its envelope ('' where not known)."""

    version: int
    revoked: bool = False
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Trust:
    """The trusted keys by id, and the status of licences by id where the trust's source states it."""

    keys: Mapping[str, TrustKey]
    licences: Mapping[str, LicenceStatus] = field(default_factory=dict)


_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key_id: str
    role: Role
    party: str
    public_key: bytes
    not_before: _Moment
    not_after: _Moment | None = None
    revoked_at: _Moment | None = None


class _Status(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    revoked: bool = False
    digest: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    v: Literal[1]
    keys: list[_Key]
    licences: dict[str, _Status] = {}


def load_trust(path: Path) -> Trust:
    """The trust of a file. Raises `OSError` when it cannot be read and `TrustFileError` when it is not a trust file."""
    return parse_trust(path.read_bytes())


def parse_trust(text: bytes) -> Trust:
    """The trust of a file's content. Raises `TrustFileError`."""
    try:
        file = msgspec.json.decode(text, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TrustFileError(str(error)) from None
    keys = {}
    for key in file.keys:
        if len(key.public_key) != PUBLIC_KEY_BYTES or key_id_of(key.public_key) != key.key_id:
            raise TrustFileError(f"key_id {key.key_id} is not the id of its public key")
        if key.key_id in keys:
            raise TrustFileError(f"key {key.key_id} is listed twice")
        keys[key.key_id] = TrustKey(
            key.key_id, key.role, key.party, key.public_key,
            to_us(key.not_before), _to_us(key.not_after), _to_us(key.revoked_at),
        )  # fmt: skip
    licences = {name: LicenceStatus(item.version, item.revoked, item.digest) for name, item in file.licences.items()}
    return Trust(keys, licences)


def dump_trust(trust: Trust) -> str:
    """The file's content, in a stable order."""
    keys = [
        {
            "key_id": key.key_id,
            "role": key.role,
            "party": key.party,
            "public_key": base64.b64encode(key.public_key).decode(),
            "not_before": from_us(key.not_before),
            "not_after": None if key.not_after is None else from_us(key.not_after),
            "revoked_at": None if key.revoked_at is None else from_us(key.revoked_at),
        }
        for key in sorted(trust.keys.values(), key=lambda key: (key.role, key.party, key.not_before, key.key_id))
    ]
    licences = {
        name: {"version": status.version, "revoked": status.revoked, "digest": status.digest}
        for name, status in sorted(trust.licences.items())
    }
    return json.dumps({"v": 1, "keys": keys, "licences": licences}, ensure_ascii=False, indent=2) + "\n"


def _to_us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)
