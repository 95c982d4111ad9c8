"""Rows of the configuration as values. Each raises `ValueError` for a row that means nothing."""

import ipaddress
from datetime import datetime
from typing import Any

import msgspec

from gateway.identity.access import Access, CredentialKind
from gateway.identity.credentials import ApiKey, OAuthClient, OidcIssuer
from gateway.licensing.times import to_us
from gateway.licensing.trust import TrustKey
from gateway.limits.levels import Limits, Raise
from gateway.priority.register import Contribution, Lineage
from gateway.tenancy.licences import LicenceRow
from gateway.tenancy.snapshot import Tenant
from gateway.upstreams.types import Profile, Upstream


def _to_us(at: datetime | None) -> int | None:
    return None if at is None else to_us(at)


def limits_of(row: Any) -> Limits:
    """The limits of a tenant, a project or a credential."""
    return Limits(row["tokens_month"], row["micro_yen_month"], row["rpm"], row["concurrency"], row["tpm"])


def raise_of(row: Any) -> tuple[str, str, Raise] | None:
    """Tenant, level and raise; None for one that was revoked."""
    if row["revoked_at"] is not None:
        return None
    found = Raise(
        row["raise_id"], row["limit_name"], row["value"], to_us(row["starts_at"]), to_us(row["ends_at"])
    )  # fmt: skip
    return row["tenant_id"], row["level"], found


def tenant_of(row: Any) -> Tenant:
    """A tenant."""
    return Tenant(row["tenant_id"], row["zone"], limits_of(row), frozenset(row["sites"]))


def access_of(row: Any, credential_id: str, kind: CredentialKind) -> Access:
    """What a credential of any kind may ask for."""
    return Access(
        credential_id=credential_id,
        kind=kind,
        tenant_id=row["tenant_id"],
        project_id=row["project_id"] or "",
        scopes=_set(row["scopes"]),
        models=_set(row["models"]),
        purposes=_set(row["purposes"]),
        networks=None if row["cidrs"] is None else tuple(ipaddress.ip_network(cidr) for cidr in row["cidrs"]),
        purpose=row["purpose"],
        data_class=row["data_class"],
        limits=limits_of(row),
        expires_at=_to_us(row["expires_at"]),
        revoked_at=_to_us(row["revoked_at"]),
    )


def _set(values: list[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)


def key_of(row: Any) -> ApiKey:
    """An API key."""
    return ApiKey(access_of(row, row["key_id"], "key"), bytes(row["mac"]), row["pepper_id"])


def client_of(row: Any) -> OAuthClient:
    """A client of the token endpoint."""
    return OAuthClient(access_of(row, row["client_id"], "client"), msgspec.json.decode(row["jwks"]), row["binding"])


def issuer_of(row: Any) -> OidcIssuer:
    """A tenant's own OpenID issuer."""
    return OidcIssuer(access_of(row, row["issuer_id"], "issuer"), row["issuer"], row["audience"], row["binding"])


def trust_key_of(row: Any) -> TrustKey:
    """A key that may sign licences."""
    return TrustKey(
        row["key_id"], row["role"], row["party"], bytes(row["public_key"]), to_us(row["not_before"]),
        _to_us(row["not_after"]), _to_us(row["revoked_at"]),
    )  # fmt: skip


def licence_of(row: Any) -> LicenceRow:
    """A version of a licence, not yet verified."""
    return LicenceRow(
        row["licence_id"], row["version"], row["tenant_id"], row["envelope"], row["parent_licence_id"],
        _to_us(row["revoked_at"]),
    )  # fmt: skip


def upstream_of(row: Any) -> Upstream | None:
    """The upstream; None for a retired one."""
    if row["retired_at"] is not None:
        return None
    fields = {name: value for name, value in dict(row).items() if name != "retired_at"}
    profile = msgspec.json.decode(row["profile"], type=Profile)
    return Upstream(**{**fields, "profile": profile, "created_at": to_us(row["created_at"])})


def contribution_of(row: Any) -> Contribution:
    """A contribution; its owner is the corporate number."""
    return Contribution(
        row["contribution_id"], row["hojin_bangou"], to_us(row["contributed_at"]), _to_us(row["withdrawn_at"])
    )


def lineage_of(row: Any) -> Lineage:
    """The lineage of a model version."""
    return Lineage(row["model"], row["model_version"], row["origin"], tuple(row["contributions"]))
