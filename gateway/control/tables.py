"""The tables of the book that the admin plane reads and writes, column by column, and how each value looks outside."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# text, int, list (text[]), time (timestamptz, RFC 3339 outside), json (jsonb), base64 (bytea), raw (bytea, never read)
ColumnKind = Literal["text", "int", "list", "time", "json", "base64", "raw"]


@dataclass(frozen=True, slots=True)
class Table:
    """`kind` is what the table's rows are called outside, `key` its primary key. `secret` columns are written and never
    read; `digested` ones appear in audit records as a digest only; `fixed` ones never change once they are written.
    `scoped`: its rows belong to tenants (`tenant_id`); `shared`: so do some of them, and the others to everybody.
    `unique` is a column that no two rows share, besides the key."""

    name: str
    kind: str
    key: tuple[str, ...]
    columns: Mapping[str, ColumnKind]
    secret: frozenset[str] = frozenset()
    digested: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    scoped: bool = False
    shared: bool = False
    unique: str = ""

    def object_id(self, row: Mapping[str, object]) -> str:
        """The row's name in answers and audit records: its key, joined by `/`."""
        return "/".join(str(row[column]) for column in self.key)


_LIMITS: dict[str, ColumnKind] = {
    "tokens_month": "int",
    "micro_yen_month": "int",
    "rpm": "int",
    "tpm": "int",
    "concurrency": "int",
}
_ACCESS: dict[str, ColumnKind] = {
    "tenant_id": "text", "project_id": "text", "label": "text", "scopes": "list", "models": "list", "purposes": "list",
    "cidrs": "list", "purpose": "text", "data_class": "text", **_LIMITS, "created_at": "time", "expires_at": "time",
    "revoked_at": "time",
}  # fmt: skip

TENANT = Table(
    "tenant", "tenant", ("tenant_id",),
    {"tenant_id": "text", "legal_name": "text", "hojin_bangou": "text", "zone": "text", "sites": "list", **_LIMITS,
     "created_at": "time"},
    fixed=frozenset({"tenant_id"}), scoped=True,
)  # fmt: skip
PROJECT = Table(
    "project", "project", ("tenant_id", "project_id"),
    {"tenant_id": "text", "project_id": "text", "name": "text", **_LIMITS, "created_at": "time"},
    fixed=frozenset({"tenant_id", "project_id"}), scoped=True,
)  # fmt: skip
KEY = Table(
    "api_key", "key", ("key_id",),
    {"key_id": "text", "mac": "raw", "pepper_id": "text", "replaces": "text", **_ACCESS},
    secret=frozenset({"mac"}), fixed=frozenset({"key_id", "tenant_id", "replaces"}), scoped=True,
)  # fmt: skip
CLIENT = Table(
    "oauth_client", "client", ("client_id",),
    {"client_id": "text", "jwks": "json", "binding": "text", **_ACCESS},
    digested=frozenset({"jwks"}), fixed=frozenset({"client_id", "tenant_id"}), scoped=True,
)  # fmt: skip
ISSUER = Table(
    "oidc_issuer", "issuer", ("issuer_id",),
    {"issuer_id": "text", "issuer": "text", "audience": "text", "binding": "text", **_ACCESS},
    fixed=frozenset({"issuer_id", "tenant_id"}), scoped=True, unique="issuer",
)  # fmt: skip
RAISE = Table(
    "limit_raise", "raise", ("raise_id",),
    {"raise_id": "text", "tenant_id": "text", "level": "text", "limit_name": "text", "value": "int",
     "starts_at": "time", "ends_at": "time", "reason": "text", "created_by": "text", "created_at": "time",
     "revoked_at": "time"},
    fixed=frozenset({"raise_id", "tenant_id", "level", "limit_name", "value", "starts_at", "created_by"}), scoped=True,
)  # fmt: skip
LICENCE = Table(
    "licence", "licence", ("licence_id", "version"),
    {"licence_id": "text", "version": "int", "tenant_id": "text", "parent_licence_id": "text", "document": "json",
     "envelope": "text", "created_at": "time", "revoked_at": "time", "revoke_reason": "text"},
    digested=frozenset({"document", "envelope"}), scoped=True,
)  # fmt: skip
TRUST_KEY = Table(
    "trust_key", "trust_key", ("key_id",),
    {"key_id": "text", "role": "text", "party": "text", "public_key": "base64", "not_before": "time",
     "not_after": "time", "revoked_at": "time", "created_at": "time"},
    fixed=frozenset({"key_id", "role", "party", "public_key", "not_before"}),
)  # fmt: skip
UPSTREAM = Table(
    "upstream", "upstream", ("upstream_id",),
    {"upstream_id": "text", "model": "text", "model_version": "text", "base_url": "text", "served_model": "text",
     "witness_url": "text", "operator": "text", "country": "text", "region": "text", "site": "text", "tier": "text",
     "accelerator": "text", "supply_chain": "json", "profile": "json", "created_at": "time", "retired_at": "time"},
    fixed=frozenset({"upstream_id"}),
)  # fmt: skip
RATE_CARD = Table(
    "rate_card", "rate_card", ("rate_card_id",),
    {"rate_card_id": "text", "model": "text", "family": "text", "tenant_id": "text", "effective_from": "time",
     "effective_to": "time", "input_price": "int", "cached_input_price": "int", "output_price": "int", "terms": "json"},
    # What was charged names its card: another price is another card.
    fixed=frozenset(
        {"rate_card_id", "model", "family", "tenant_id", "effective_from", "input_price", "cached_input_price",
         "output_price", "terms"}
    ),
    shared=True,
)  # fmt: skip
AGREEMENT = Table(
    "billing_agreement", "agreement", ("agreement_id",),
    {"agreement_id": "text", "tenant_id": "text", "effective_from": "time", "effective_to": "time", "terms": "json",
     "created_at": "time"},
    fixed=frozenset({"agreement_id", "tenant_id", "effective_from", "terms"}), scoped=True,
)  # fmt: skip
CREDIT = Table(
    "prepaid_credit", "prepaid_credit", ("credit_id",),
    {"credit_id": "text", "tenant_id": "text", "yen": "int", "effective_from": "time", "expires_at": "time",
     "note": "text", "created_at": "time"},
    scoped=True,
)  # fmt: skip
_ADDRESS: dict[str, ColumnKind] = {
    "name": "text", "hojin_bangou": "text", "postal_code": "text", "address": "text", "country": "text",
    "email": "text",
}  # fmt: skip
BILLING_ISSUER = Table(
    "billing_issuer", "billing_issuer", ("issuer_id",),
    {"issuer_id": "text", **_ADDRESS, "registration_number": "text", "bank_account": "text", "number_prefix": "text",
     "year_begins": "int", "due_months": "int"},
    fixed=frozenset({"issuer_id", "number_prefix", "year_begins"}), unique="number_prefix",
)  # fmt: skip
BILLING_PARTY = Table(
    "billing_party", "billing_party", ("tenant_id",),
    {"tenant_id": "text", "issuer_id": "text", **_ADDRESS}, fixed=frozenset({"tenant_id"}), scoped=True,
)  # fmt: skip
INVOICE = Table(
    "invoice", "invoice", ("number",),
    {"number": "text", "kind": "text", "tenant_id": "text", "counterparty": "text", "period": "text",
     "total_yen": "int", "corrects": "text"},
    scoped=True,
)  # fmt: skip
CONTRIBUTION = Table(
    "contribution", "contribution", ("contribution_id",),
    {"contribution_id": "text", "contributor": "text", "hojin_bangou": "text", "industry": "text",
     "data_contract": "text", "data_class": "text", "contributed_at": "time", "withdrawn_at": "time",
     "created_at": "time"},
    fixed=frozenset(
        {"contribution_id", "contributor", "hojin_bangou", "industry", "data_contract", "data_class", "contributed_at"}
    ),
)  # fmt: skip
MODEL = Table(
    "model_lineage", "model", ("model", "model_version"),
    {"model": "text", "model_version": "text", "origin": "text", "base_model": "text", "contributions": "list",
     "created_at": "time"},
    fixed=frozenset({"model", "model_version"}),
)  # fmt: skip
POLICY = Table(
    "priority_policy", "priority_policy", ("version",),
    {"version": "int", "effective_from": "time", "document": "json", "envelope": "text", "created_at": "time"},
    digested=frozenset({"envelope"}),
)  # fmt: skip
ADMIN_KEY = Table(
    "admin_key", "admin_key", ("key_id",),
    {"key_id": "text", "role": "text", "tenants": "list", "mac": "raw", "pepper_id": "text", "label": "text",
     "created_at": "time", "expires_at": "time", "revoked_at": "time"},
    secret=frozenset({"mac"}), fixed=frozenset({"key_id", "role"}),
)  # fmt: skip


WEBHOOK = Table(
    "webhook_endpoint", "webhook", ("endpoint_id",),
    {"endpoint_id": "text", "tenant_id": "text", "url": "text", "events": "list", "label": "text", "secret": "raw",
     "secret_from": "time", "old_secret": "raw", "old_secret_until": "time", "created_at": "time",
     "disabled_at": "time", "disabled_reason": "text", "deleted_at": "time"},
    secret=frozenset({"secret", "old_secret"}), fixed=frozenset({"endpoint_id", "tenant_id"}), scoped=True,
)  # fmt: skip
WEBHOOK_EVENT = Table(
    "webhook_event", "webhook_event", ("event_id",),
    {"event_id": "text", "tenant_id": "text", "type": "text", "dedupe": "text", "body": "text", "created_at": "time"},
    scoped=True,
)  # fmt: skip
WEBHOOK_DELIVERY = Table(
    "webhook_delivery", "webhook_delivery", ("endpoint_id", "event_id"),
    {"endpoint_id": "text", "event_id": "text", "tenant_id": "text", "status": "text", "attempts": "int",
     "next_at": "time", "last_at": "time", "last_status": "int", "last_error": "text", "created_at": "time"},
    scoped=True,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows of a table: those with the values `where`, after the key `after` ('' from the start), at most
    `limit`."""

    where: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    limit: int = 100
