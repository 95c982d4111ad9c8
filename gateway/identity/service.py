"""Turns a presented credential into a principal, or refuses it without saying more than the caller may know."""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.faults import Fault
from gateway.identity.keys import Pepper, key_id_of, matches


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key. Times in microseconds since the epoch; `purpose` and `data_class` are its requests' defaults."""

    key_id: str
    tenant_id: str
    mac: bytes
    pepper_id: str
    purpose: str
    data_class: str
    expires_at: int | None
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking, as the rest of the way sees it."""

    tenant_id: str
    key_id: str
    purpose: str
    data_class: str


_BLANK_MAC = bytes(32)


def identify(
    authorization: str | None, keys: Mapping[str, ApiKey], peppers: Mapping[str, Pepper], now: int
) -> Principal:
    """The principal of an `Authorization: Bearer` header (RFC 6750). `now` in microseconds since the epoch.

    Raises `Fault` with `missing_api_key`, `invalid_api_key`, `key_revoked` or `key_expired`. The last two are told only
    to one who holds the whole key; an unknown id and a wrong secret cost the same and read the same.
    """
    scheme, _, text = (authorization or "").partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or not text:
        raise Fault("missing_api_key")
    key_id = key_id_of(text)
    if key_id is None:
        raise Fault("invalid_api_key")
    key = keys.get(key_id)
    if key is None:
        matches(text, _BLANK_MAC, next(iter(peppers)), peppers)
        raise Fault("invalid_api_key")
    if not matches(text, key.mac, key.pepper_id, peppers):
        raise Fault("invalid_api_key")
    if key.revoked_at is not None and key.revoked_at <= now:
        raise Fault("key_revoked")
    if key.expires_at is not None and key.expires_at <= now:
        raise Fault("key_expired")
    return Principal(key.tenant_id, key.key_id, key.purpose, key.data_class)
