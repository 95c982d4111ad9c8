"""The bodies of credentials: API keys, OAuth clients, OpenID issuers, admin keys."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from gateway.control import fields as f
from gateway.control.forms import STAYS, Form, Limits
from gateway.control.roles import Role


class AccessFields(Limits):
    """What a credential may ask for. A list that is null does not restrict; `purpose` and `data_class` are the defaults
    of its requests."""

    project_id: f.ProjectId | None = None
    label: f.Label = ""
    scopes: f.Scopes | None = None
    models: f.Models | None = None
    purposes: f.Purposes | None = None
    cidrs: f.Networks | None = None
    purpose: f.Purpose = Field(default="general", validate_default=True)
    data_class: f.DataClass = "restricted"
    expires_at: f.Time | None = None

    @field_validator("purpose")
    @classmethod
    def _is_allowed(cls, purpose: str, info: ValidationInfo) -> str:
        purposes = info.data.get("purposes")
        if purposes is not None and purpose not in purposes:
            raise ValueError("not among purposes, so that no request without a purpose of its own would pass")
        return purpose


class AccessChange(Limits):
    """A change of a credential."""

    project_id: f.ProjectId | None = STAYS
    label: f.Label = STAYS
    scopes: f.Scopes | None = STAYS
    models: f.Models | None = STAYS
    purposes: f.Purposes | None = STAYS
    cidrs: f.Networks | None = STAYS
    purpose: f.Purpose = STAYS
    data_class: f.DataClass = STAYS
    expires_at: f.Time | None = STAYS


Environment = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,16}$")]


class NewKey(AccessFields):
    """An API key to be issued. `environment` is readable in its text."""

    environment: Environment = "live"


class Rotation(Form):
    """How long the old key stays valid beside its successor, in seconds."""

    environment: Environment = "live"
    overlap_s: int = Field(default=0, strict=True, ge=0, le=90 * 86_400)


class NewClient(AccessFields):
    """An OAuth client that authenticates by `private_key_jwt` (RFC 7523) with one of `jwks`."""

    jwks: f.Jwks
    binding: Literal["none", "dpop", "mtls"] = "none"


class ClientChange(AccessChange):
    """A change of a client."""

    jwks: f.Jwks = STAYS
    binding: f.Binding = STAYS


class NewIssuer(AccessFields):
    """A tenant's own OpenID issuer, whose access tokens for `audience` speak for the tenant."""

    issuer: f.HttpsUrl
    audience: f.Name
    binding: f.Binding = "none"


class IssuerChange(AccessChange):
    """A change of an issuer."""

    issuer: f.HttpsUrl = STAYS
    audience: f.Name = STAYS
    binding: f.Binding = STAYS


class NewAdminKey(Form):
    """An admin key. `tenants` is for the role si_engineer, and required there."""

    role: Role
    tenants: f.TenantIds = Field(default_factory=list, validate_default=True)
    label: f.Label = ""
    environment: Environment = "live"
    expires_at: f.Time | None = None

    @field_validator("tenants")
    @classmethod
    def _go_with_the_role(cls, tenants: list[str], info: ValidationInfo) -> list[str]:
        if "role" in info.data and (info.data["role"] is Role.SI_ENGINEER) != bool(tenants):
            raise ValueError("named for the role si_engineer, and for no other")
        return tenants
