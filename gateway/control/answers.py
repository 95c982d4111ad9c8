"""What the admin plane answers. Only the fields that are named here leave it."""

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

_T = TypeVar("_T")


class Answer(BaseModel):
    """A body. Times are RFC 3339 in UTC, money is micro-yen, prices are yen per 1M tokens."""

    model_config = ConfigDict(frozen=True)


class ProblemAnswer(Answer):
    """One of several problems; `path` is the field, dotted."""

    path: str
    code: str
    message: str
    cure: str


class Error(Answer):
    """Why a request was refused. `code` is stable (docs/errors.md, docs/licences.md), texts are not."""

    message: str
    type: str
    param: str | None
    code: str
    cure: str
    request_id: str
    problems: list[ProblemAnswer] | None = None


class ErrorAnswer(Answer):
    """The body of every refusal."""

    error: Error


class Listed(Answer, Generic[_T]):
    """A page in the order of ids; `next` is what `after` takes for the following one, null at the end."""

    data: list[_T]
    next: str | None


class LimitFields(Answer):
    """Limits; null: not limited here."""

    tokens_month: int | None
    micro_yen_month: int | None
    rpm: int | None
    tpm: int | None
    concurrency: int | None


class Tenant(LimitFields):
    """A tenant."""

    tenant_id: str
    legal_name: str
    hojin_bangou: str
    zone: str
    sites: list[str]
    created_at: str


class Project(LimitFields):
    """A project."""

    tenant_id: str
    project_id: str
    name: str
    created_at: str


class Raise(Answer):
    """A higher limit for a while. `level` is `tenant`, `licence:<rule id>`, `project:<id>` or `key:<credential id>`."""

    raise_id: str
    tenant_id: str
    level: str
    limit_name: str
    value: int
    starts_at: str
    ends_at: str
    reason: str
    created_by: str
    created_at: str
    revoked_at: str | None


class RaiseInForce(Answer):
    """Which raise is in force, and until when."""

    raise_id: str
    ends_at: str


class LevelLimit(Answer):
    """A limit at one level: `set` as it is configured, `limit` with the raise in force; null: not limited here."""

    name: str
    limit: int | None
    set: int | None
    raise_: RaiseInForce | None = Field(alias="raise")
    used: int
    held: int
    remaining: int | None


class EffectiveLimit(Answer):
    """One limit at all levels; `binds` names the level with the least left."""

    limit: str
    binds: str | None
    remaining: int | None
    reset_at: str | None
    levels: list[LevelLimit]


class EffectiveLimits(Answer):
    """How a tenant's limits stand."""

    at: str
    zone: str
    limits: list[EffectiveLimit]


class Credential(LimitFields):
    """What every credential has. `last_used_at` is right to some seconds."""

    tenant_id: str
    project_id: str | None
    label: str
    scopes: list[str] | None
    models: list[str] | None
    purposes: list[str] | None
    cidrs: list[str] | None
    purpose: str
    data_class: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None = None


class Key(Credential):
    """An API key without its text. `replaces` is the key that it was rotated from."""

    key_id: str
    pepper_id: str
    replaces: str | None


class IssuedKey(Key):
    """A new API key; `key` is its text, shown here only."""

    key: str


class Client(Credential):
    """An OAuth client."""

    client_id: str
    jwks: dict[str, Any]
    binding: str


class Issuer(Credential):
    """A tenant's own OpenID issuer."""

    issuer_id: str
    issuer: str
    audience: str
    binding: str


class Licence(Answer):
    """A version of a licence. `digest` is the SHA-256 of its envelope; a row without one grants nothing."""

    licence_id: str
    version: int
    tenant_id: str
    parent_licence_id: str | None
    digest: str | None
    created_at: str
    revoked_at: str | None
    revoke_reason: str


class WholeLicence(Licence):
    """A version of a licence with the signed document and its envelope."""

    document: dict[str, Any]
    envelope: str | None


class TrustKey(Answer):
    """A public key whose signatures on licences count."""

    key_id: str
    role: str
    party: str
    public_key: str
    not_before: str
    not_after: str | None
    revoked_at: str | None
    created_at: str


class Upstream(Answer):
    """An engine endpoint."""

    upstream_id: str
    model: str
    model_version: str
    base_url: str
    served_model: str
    witness_url: str | None
    operator: str
    country: str
    region: str
    site: str
    tier: str
    accelerator: str
    supply_chain: dict[str, Any]
    profile: dict[str, Any]
    created_at: str
    retired_at: str | None


class Webhook(Answer):
    """A webhook without its secret. `events` null: all; after `old_secret_until` only the newest secret signs."""

    endpoint_id: str
    tenant_id: str
    url: str
    events: list[str] | None
    label: str
    secret_from: str
    old_secret_until: str | None
    created_at: str
    disabled_at: str | None
    disabled_reason: str
    deleted_at: str | None


class IssuedWebhook(Webhook):
    """A webhook with its new secret, shown here only."""

    secret: str


class WebhookEvent(Answer):
    """An event on its way; `event_id` is its `webhook-id`."""

    event_id: str
    tenant_id: str
    type: str


class WebhookDelivery(Answer):
    """An event and one webhook. `last_status` is the receiver's, null when it did not answer; `last_error` a word."""

    event_id: str
    type: str
    status: str
    attempts: int
    created_at: datetime
    last_at: datetime | None
    last_status: int | None
    last_error: str
    next_at: datetime | None


class AdminKey(Answer):
    """An admin key without its text."""

    key_id: str
    role: str
    tenants: list[str]
    label: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class IssuedAdminKey(AdminKey):
    """A new admin key; `key` is its text, shown here only."""

    key: str


class Caller(Answer):
    """The admin key that asks: what it may do, and for which tenants (null: every one)."""

    key_id: str
    role: str
    tenants: list[str] | None
    permissions: list[str]


class ChangeAnswer(Answer):
    """One entry of a desired state, or of the book, and what becomes of it (docs/tenants-as-code.md)."""

    effect: str
    kind: str
    name: str
    before: dict[str, Any]
    after: dict[str, Any]
    note: str


class PlanAnswer(Answer):
    """What an application changes. `plan_digest` covers what is written, `epoch` is the book's."""

    epoch: int
    plan_digest: str
    summary: dict[str, int]
    changes: list[ChangeAnswer]


class NewKeyText(Answer):
    """A key that an application made, with its text."""

    tenant_id: str
    label: str
    key_id: str
    key: str


class ApplyAnswer(PlanAnswer):
    """What an application has changed, and the new keys; their texts are shown here only."""

    issued: list[NewKeyText]


class AuditEntry(Answer):
    """One act of an administrator. `before` and `after` hold the changed fields only; `at` is in microseconds since the
    epoch."""

    id: int
    v: int
    verb: str
    actor: dict[str, str]
    object: str
    tenant: str
    before: dict[str, Any]
    after: dict[str, Any]
    at: int
    request: str
