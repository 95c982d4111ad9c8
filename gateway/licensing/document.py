"""The licence document: what the signed payload says, as immutable values (docs/licences.md shows the whole form)."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

# Short ASCII names keep every audit record within its bound, whatever a licence says. In Python `$` also matches before
# a last line feed, which the look-ahead forbids; in JSON Schema's dialect it changes nothing.
LicenceId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,32}$(?!\n)")]
ClauseId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,24}$(?!\n)")]
TenantId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$(?!\n)")]
Country = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}$(?!\n)")]
# No control characters: a document is shown to the people who sign it.
Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,200}$(?!\n)")]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]
Code = Annotated[str, msgspec.Meta(pattern=r"^(\*|[a-z0-9][a-z0-9_-]{0,39})$(?!\n)")]
Codes = Annotated[list[Code], msgspec.Meta(min_length=1, max_length=100)]
Models = Annotated[
    list[Annotated[str, msgspec.Meta(min_length=1, max_length=400)]], msgspec.Meta(min_length=1, max_length=200)
]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Tier = Literal["heavy", "edge"]
DataClass = Literal["public", "restricted", "secret"]
LicenseeClass = Literal["investor", "public", "research", "internal"]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every part refuses members that it does not know: what is signed is what is read."""


class Licensee(_Part, frozen=True, kw_only=True):
    """Who is licensed. `hojin_bangou` is the 13-digit corporate number (法人番号), '' outside Japan."""

    tenant: TenantId
    legal_name: Name
    licensee_class: LicenseeClass = msgspec.field(name="class")
    hojin_bangou: Annotated[str, msgspec.Meta(max_length=13)] = ""
    role: Literal["deployer", "downstream_provider"] = "deployer"
    country: Country = "JP"


class Validity(_Part, frozen=True, kw_only=True):
    """`not_before` inclusive, `not_after` exclusive, RFC 3339 with an offset; `grace_days` follow `not_after`."""

    not_before: Moment
    not_after: Moment
    grace_days: Annotated[int, msgspec.Meta(ge=0, le=90)] = 0
    notice_days: Annotated[int, msgspec.Meta(ge=0, le=366)] = 0


class ContractRef(_Part, frozen=True, kw_only=True):
    """The paper contract: SHA-256 of its file, and when it was signed."""

    doc_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    signed_at: Moment


class Quota(_Part, frozen=True, kw_only=True):
    """Limits of a grant; absent: not limited by the grant. Yen are whole yen per month."""

    rpm: Count | None = None
    tpm: Count | None = None
    concurrency: Count | None = None
    tokens_month: Count | None = None
    yen_month_hard: Count | None = None
    yen_month_soft: Count | None = None


class Priority(_Part, frozen=True, kw_only=True):
    """Scheduling class and weight within it."""

    priority_class: LicenseeClass = msgspec.field(name="class")
    weight: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1


class GrantClause(_Part, frozen=True, kw_only=True):
    """One grant. `models` are names or patterns (`*` within a name) with an optional `@ version range`; `"*"` alone in
    purposes, data classes, regions or tiers means every code of the register."""

    id: ClauseId
    models: Models
    actions: Codes
    purposes: Codes = msgspec.field(default_factory=lambda: ["*"])
    data_classes: Codes = msgspec.field(default_factory=lambda: ["public", "restricted"])
    regions: Codes = msgspec.field(default_factory=lambda: ["*"])
    tiers: Codes = msgspec.field(default_factory=lambda: ["*"])
    adapters: Annotated[list[Name], msgspec.Meta(max_length=200)] = msgspec.field(default_factory=list)
    redistribution: bool = False
    annex3_high_risk: bool = False
    quota: Quota = msgspec.field(default_factory=Quota)
    priority: Priority | None = None
    rate_card: Annotated[str, msgspec.Meta(max_length=64)] = ""
    retention_days: Count | None = None
    zero_retention: bool = False


class Match(_Part, frozen=True, kw_only=True):
    """What a prohibition covers; an absent dimension covers everything. `models` as in a grant."""

    models: Models | None = None
    actions: Codes | None = None
    purposes: Codes | None = None
    data_classes: Codes | None = None
    regions: Codes | None = None
    tiers: Codes | None = None


class Prohibition(_Part, frozen=True, kw_only=True):
    """An explicit no, stronger than any grant of the tenant."""

    id: ClauseId
    match: Match
    reason: Text


class Delegation(_Part, frozen=True, kw_only=True):
    """Whether the licensee may re-contract (再委託), how many levels down, and to which tenants (empty: any)."""

    allowed: bool = False
    max_depth: Annotated[int, msgspec.Meta(ge=0, le=8)] = 0
    to: Annotated[list[TenantId], msgspec.Meta(max_length=1000)] = msgspec.field(default_factory=list)


class Exclusive(_Part, frozen=True, kw_only=True):
    """An exclusivity window on one model."""

    model: Name
    until: Moment
    scope: Text
    basis: Text


class Ip(_Part, frozen=True, kw_only=True):
    """Contributions that priority may follow from, and exclusivities claimed."""

    contributions: Annotated[list[Name], msgspec.Meta(max_length=1000)] = msgspec.field(default_factory=list)
    exclusive: Annotated[list[Exclusive], msgspec.Meta(max_length=100)] = msgspec.field(default_factory=list)


class PersonalData(_Part, frozen=True, kw_only=True):
    """How personal data is handled; `processing_countries` are ISO 3166-1 alpha-2. Training on it is never allowed."""

    handling_mode: Literal["none", "entrusted", "zero_retention"] = "entrusted"
    processing_countries: Annotated[list[Country], msgspec.Meta(min_length=1, max_length=100)] = msgspec.field(
        default_factory=lambda: ["JP"]
    )
    training_use: Literal[False] = False


class Parent(_Part, frozen=True, kw_only=True):
    """The licence this one is cut from (再委託)."""

    licence_id: LicenceId
    version: Annotated[int, msgspec.Meta(ge=1)]


class LicenceDocument(_Part, frozen=True, kw_only=True):
    """A licence. `supersedes` is the version it replaces, null for the first one."""

    v: Literal[1]
    licence_id: LicenceId
    version: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    supersedes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    issuer: Name
    licensee: Licensee
    validity: Validity
    contract_ref: ContractRef | None = None
    grants: Annotated[list[GrantClause], msgspec.Meta(min_length=1, max_length=1000)]
    prohibitions: Annotated[list[Prohibition], msgspec.Meta(max_length=1000)] = msgspec.field(default_factory=list)
    duties: Annotated[list[Text | dict[str, Any]], msgspec.Meta(max_length=200)] = msgspec.field(default_factory=list)
    delegation: Delegation = msgspec.field(default_factory=Delegation)
    ip: Ip = msgspec.field(default_factory=Ip)
    personal_data: PersonalData = msgspec.field(default_factory=PersonalData)
    parent: Parent | None = None


class StoredLicence(msgspec.Struct, frozen=True):
    """A verified version of a licence as the index is compiled from. `digest` is the SHA-256 of its envelope in hex;
    `revoked_at` in microseconds since the epoch."""

    document: LicenceDocument
    digest: str
    revoked_at: int | None = None
