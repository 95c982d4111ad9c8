"""The credentials there are, and what a request presents of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.identity.access import Access

Binding = Literal["none", "dpop", "mtls"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key: HMAC-SHA-256 of its text under the pepper `pepper_id`."""

    access: Access
    mac: bytes
    pepper_id: str


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """A client of the token endpoint: its public keys (RFC 7517) and what its tokens must be bound to."""

    access: Access
    jwks: Mapping[str, Any]
    binding: Binding = "none"


@dataclass(frozen=True, slots=True)
class OidcIssuer:
    """A tenant's own OpenID issuer: access tokens that it issues for `audience` speak for the tenant."""

    access: Access
    issuer: str
    audience: str
    binding: Binding = "none"


@dataclass(frozen=True, slots=True)
class Credentials:
    """All credentials of one snapshot: keys by key id, clients by client id, issuers by issuer URL."""

    keys: Mapping[str, ApiKey]
    clients: Mapping[str, OAuthClient]
    issuers: Mapping[str, OidcIssuer]
    issuer_urls: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        urls = {issuer.access.credential_id: url for url, issuer in self.issuers.items()}
        object.__setattr__(self, "issuer_urls", urls)

    def access_of(self, access: Access) -> Access | None:
        """The credential of `access` as it is now, or None when it is gone."""
        stored: ApiKey | OAuthClient | OidcIssuer | None
        if access.kind == "key":
            stored = self.keys.get(access.credential_id)
        elif access.kind == "client":
            stored = self.clients.get(access.credential_id)
        else:
            stored = self.issuers.get(self.issuer_urls.get(access.credential_id, ""))
        return None if stored is None else stored.access


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request brings: `url` is `scheme://host/path` as the client addressed it, `address` the client's own,
    `certificate` the DER of the certificate with which its TLS connection was made."""

    authorization: str | None = None
    dpop: str | None = None
    method: str = "GET"
    url: str = ""
    address: str = ""
    certificate: bytes | None = None
