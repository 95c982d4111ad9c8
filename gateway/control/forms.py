"""The bodies that the admin plane takes. Unknown fields are refused; a field that is left out of a change stays."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from gateway.control import fields as f

ENVELOPE_CHARS_MAX = 1_500_000
# For a field of a change: absent is not null. Pydantic does not check defaults, and absent fields are not dumped.
STAYS: Any = None


class Form(BaseModel):
    """A body."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self) -> dict[str, Any]:
        """The fields that the body names."""
        return self.model_dump(exclude_unset=True)


class Limits(Form):
    """Limits per calendar month of the tenant's zone, per minute and at once; null: not limited here."""

    tokens_month: f.Count | None = None
    micro_yen_month: f.Count | None = None
    rpm: f.SmallCount | None = None
    tpm: f.Count | None = None
    concurrency: f.SmallCount | None = None


class NewTenant(Form):
    """A tenant. `sites` are sites of its own: only there may its secret data go."""

    tenant_id: f.TenantId
    legal_name: f.Name
    hojin_bangou: f.HojinBangou = ""
    zone: f.Zone = "Asia/Tokyo"
    sites: f.Sites = Field(default_factory=list)
    tokens_month: f.Count
    micro_yen_month: f.Count
    rpm: f.SmallCount
    tpm: f.Count | None = None
    concurrency: f.SmallCount


class TenantChange(Form):
    """A change of a tenant."""

    legal_name: f.Name = STAYS
    hojin_bangou: f.HojinBangou = STAYS
    zone: f.Zone = STAYS
    tokens_month: f.Count = STAYS
    micro_yen_month: f.Count = STAYS
    rpm: f.SmallCount = STAYS
    tpm: f.Count | None = STAYS
    concurrency: f.SmallCount = STAYS


class NewRaise(Form):
    """A higher limit for a while, with its end. `level` is `tenant`, `licence:<rule id>`, `project:<id>` or
    `key:<credential id>`; null for `starts_at`: from now on."""

    level: f.LevelName
    limit_name: Literal["tokens_month", "micro_yen_month", "rpm", "tpm", "concurrency"]
    value: f.Count
    starts_at: f.Time | None = None
    ends_at: f.Time
    reason: f.Name


class OwnSites(Form):
    """All sites that are a tenant's own: only to upstreams there may its secret data go."""

    sites: f.Sites


class NewProject(Limits):
    """A project of a tenant."""

    project_id: f.ProjectId
    name: f.Text = ""


class ProjectChange(Limits):
    """A change of a project."""

    name: f.Text = STAYS


class Envelope(Form):
    """A signed licence: the text of its DSSE envelope, as `sekisho licence sign` wrote it."""

    envelope: str = Field(min_length=1, max_length=ENVELOPE_CHARS_MAX)


class Simulation(Form):
    """A licence as it might become, signed or not, and the decisions to replay: those of [`from`, `to`), of the last 30
    days by default. `at` asks all of them at one time instead of each at its own: for a licence that begins later."""

    envelope: str | None = Field(default=None, min_length=1, max_length=ENVELOPE_CHARS_MAX)
    document: dict[str, Any] | None = Field(default=None, validate_default=True)
    start: f.Time | None = Field(default=None, alias="from")
    end: f.Time | None = Field(default=None, alias="to")
    at: f.Time | None = None

    @field_validator("document")
    @classmethod
    def _is_one_of_two(cls, document: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if (document is None) == (info.data.get("envelope") is None):
            raise ValueError("either envelope or document")
        return document


class Revocation(Form):
    """Why a licence ends."""

    reason: f.Name


class NewTrustKey(Form):
    """A public key whose signatures on licences count. Its id is the SHA-256 of its SubjectPublicKeyInfo (RFC 8410)."""

    role: Literal["issuer", "licensee"]
    party: f.Name
    public_key: f.PublicKey
    not_before: f.Time
    not_after: f.Time | None = None


class Retirement(Form):
    """From when on a trust key's new signatures do not count; null: from now on."""

    not_after: f.Time | None = None


class NewUpstream(Form):
    """An engine endpoint with what residency and supply chain need to know of it."""

    upstream_id: f.ObjectId
    model: f.ModelName
    model_version: f.ModelVersion = "1.0.0"
    base_url: f.BaseUrl
    served_model: f.Name
    witness_url: f.Url | None = None
    operator: f.Text = ""
    country: f.Country = "JP"
    region: f.Region
    site: f.Site
    tier: f.Tier
    accelerator: f.Text = ""
    supply_chain: f.SupplyChain = Field(default_factory=dict)
    profile: f.ProfileFields


class UpstreamChange(Form):
    """A change of an upstream."""

    model: f.ModelName = STAYS
    model_version: f.ModelVersion = STAYS
    base_url: f.BaseUrl = STAYS
    served_model: f.Name = STAYS
    witness_url: f.Url | None = STAYS
    operator: f.Text = STAYS
    country: f.Country = STAYS
    region: f.Region = STAYS
    site: f.Site = STAYS
    tier: f.Tier = STAYS
    accelerator: f.Text = STAYS
    supply_chain: f.SupplyChain = STAYS
    profile: f.ProfileFields = STAYS
