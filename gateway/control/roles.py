"""Who may do what on the admin plane: one table of roles and permissions. What is not in it is denied."""

from collections.abc import Mapping
from enum import StrEnum


class Role(StrEnum):
    """The role of an admin key. An `si_engineer` acts only for the tenants that its key names."""

    PLATFORM_ADMIN = "platform_admin"
    SI_ENGINEER = "si_engineer"
    APPROVER = "approver"
    BILLING = "billing"
    AUDITOR = "auditor"


class Permission(StrEnum):
    """`<noun>:<act>`. Each route of the admin plane declares exactly one."""

    DESCRIBE = "plane:read"
    REGISTER_READ = "register:read"
    TENANT_READ = "tenant:read"
    TENANT_CREATE = "tenant:create"
    TENANT_UPDATE = "tenant:update"
    SITE_WRITE = "site:write"
    PROJECT_READ = "project:read"
    PROJECT_WRITE = "project:write"
    CREDENTIAL_READ = "credential:read"
    CREDENTIAL_WRITE = "credential:write"
    LICENCE_READ = "licence:read"
    LICENCE_SUBMIT = "licence:submit"
    LICENCE_REVOKE = "licence:revoke"
    LICENCE_SIMULATE = "licence:simulate"
    TRUST_READ = "trust:read"
    TRUST_WRITE = "trust:write"
    UPSTREAM_READ = "upstream:read"
    UPSTREAM_WRITE = "upstream:write"
    RATE_CARD_READ = "rate_card:read"
    RATE_CARD_WRITE = "rate_card:write"
    AGREEMENT_READ = "agreement:read"
    AGREEMENT_WRITE = "agreement:write"
    LINEAGE_READ = "lineage:read"
    LINEAGE_WRITE = "lineage:write"
    PRIORITY_READ = "priority:read"
    POLICY_READ = "policy:read"
    POLICY_SUBMIT = "policy:submit"
    BILLING_ISSUER_READ = "billing_issuer:read"
    BILLING_ISSUER_WRITE = "billing_issuer:write"
    INVOICE_READ = "invoice:read"
    INVOICE_CLOSE = "invoice:close"
    INVOICE_CREDIT = "invoice:credit"
    ADMIN_KEY_READ = "admin_key:read"
    ADMIN_KEY_WRITE = "admin_key:write"
    WEBHOOK_READ = "webhook:read"
    WEBHOOK_WRITE = "webhook:write"
    USAGE_READ = "usage:read"
    AUDIT_READ = "audit:read"
    PLAN = "book:plan"
    APPLY = "book:apply"

    @property
    def writes(self) -> bool:
        """Whether it takes a transaction that writes. A plan does: it is an application that is undone."""
        return self.value.rpartition(":")[2] not in ("read", "simulate")


_P = Permission
# A priority policy is the same text for all.
_EVERYBODY = frozenset(
    {_P.DESCRIBE, _P.REGISTER_READ, _P.TENANT_READ, _P.PROJECT_READ, _P.LICENCE_READ, _P.POLICY_READ}
)
_READING = frozenset(permission for permission in Permission if not permission.writes)

GRANTED: Mapping[Role, frozenset[Permission]] = {
    Role.PLATFORM_ADMIN: frozenset(Permission),
    # Neither upstreams nor trust keys nor lineages: their sites, parties and contributors tell of other tenants. Nor a
    # tenant's own sites: to name somebody else's would send secret data there.
    Role.SI_ENGINEER: _EVERYBODY
    | {
        _P.TENANT_UPDATE, _P.PROJECT_WRITE, _P.CREDENTIAL_READ, _P.CREDENTIAL_WRITE, _P.LICENCE_SUBMIT,
        _P.LICENCE_SIMULATE, _P.PRIORITY_READ, _P.RATE_CARD_READ, _P.AGREEMENT_READ, _P.INVOICE_READ, _P.WEBHOOK_READ,
        _P.WEBHOOK_WRITE, _P.USAGE_READ, _P.PLAN, _P.APPLY,
    },
    # Puts contracts into force and ends them, and does not configure what runs under them.
    Role.APPROVER: _EVERYBODY
    | {
        _P.CREDENTIAL_READ, _P.LICENCE_SUBMIT, _P.LICENCE_REVOKE, _P.LICENCE_SIMULATE, _P.TRUST_READ,
        _P.UPSTREAM_READ, _P.RATE_CARD_READ, _P.USAGE_READ, _P.LINEAGE_READ, _P.PRIORITY_READ, _P.POLICY_SUBMIT,
    },
    # Prices, agreements and documents, and nothing that decides who may use what.
    Role.BILLING: _EVERYBODY
    | {
        _P.RATE_CARD_READ, _P.RATE_CARD_WRITE, _P.AGREEMENT_READ, _P.AGREEMENT_WRITE, _P.BILLING_ISSUER_READ,
        _P.BILLING_ISSUER_WRITE, _P.INVOICE_READ, _P.INVOICE_CLOSE, _P.INVOICE_CREDIT, _P.USAGE_READ,
    },
    # Sees everything and changes nothing.
    Role.AUDITOR: _READING,
}  # fmt: skip


def allows(role: Role, permission: Permission) -> bool:
    """Whether `role` has `permission`."""
    return permission in GRANTED[role]
