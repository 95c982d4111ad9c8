"""What a credential may ask for, whatever kind of credential it is, and the principal that stands for one request."""

from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, TypeVar

from gateway.limits.levels import UNBOUNDED, Limits

_Time = TypeVar("_Time", int, datetime)
CredentialKind = Literal["key", "client", "issuer"]
Scope = Literal["chat", "completion", "models", "usage"]
SCOPES: frozenset[str] = frozenset({"chat", "completion", "models", "usage"})


def ended(revoked_at: _Time | None, expires_at: _Time | None, now: _Time) -> Literal["", "revoked", "expired"]:
    """Why a credential is no longer in force at `now`; '' while it is."""
    if revoked_at is not None and revoked_at <= now:
        return "revoked"
    return "expired" if expires_at is not None and expires_at <= now else ""


@dataclass(frozen=True, slots=True)
class Access:
    """A stored credential without its secret. Times in microseconds since the epoch; None in a set: not restricted
    here. `credential_id` is the key id, the client id or the issuer id. `purpose` and `data_class` are the defaults of
    its requests; no request may be of a lower class, nor of a purpose outside `purposes`.
    """

    credential_id: str
    kind: CredentialKind
    tenant_id: str
    project_id: str = ""
    scopes: frozenset[str] | None = None
    models: frozenset[str] | None = None
    purposes: frozenset[str] | None = None
    networks: tuple[IPv4Network | IPv6Network, ...] | None = None
    purpose: str = "general"
    data_class: str = "restricted"
    limits: Limits = field(default=UNBOUNDED)
    expires_at: int | None = None
    revoked_at: int | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, for one request: the credential's access, narrowed by the presented token where there is one.

    `expires_at` is the earlier end of credential and token; `subject` is the token's subject ('' for an API key).
    """

    access: Access
    scopes: frozenset[str] | None = None
    expires_at: int | None = None
    subject: str = ""

    @property
    def tenant_id(self) -> str:
        """The tenant on whose account the request goes."""
        return self.access.tenant_id

    @property
    def key_id(self) -> str:
        """The credential's id, as the journal names it."""
        return self.access.credential_id
