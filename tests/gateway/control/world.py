"""Two tenants with one of everything, and for each route of the admin plane a request that means a tenant's own."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from gateway.licensing.envelope import seal
from gateway.licensing.keys import SigningKey
from gateway.priority.policy import PAYLOAD_TYPE
from tests.gateway.control.admin import Administration, Administrator, licence_document, tenant_body
from tests.gateway.control.parties import Parties, trust_body

JWK = {"kty": "OKP", "crv": "Ed25519", "alg": "Ed25519", "kid": "k1"}


def a_jwks() -> dict[str, Any]:
    """A client's public keys."""
    x = base64.urlsafe_b64encode(SigningKey.generate().public_bytes).decode().rstrip("=")
    return {"keys": [{**JWK, "x": x}]}


def an_upstream(upstream_id: str | None = None, **changes: Any) -> dict[str, Any]:
    """An engine endpoint."""
    return {
        "upstream_id": upstream_id or f"u-{uuid4().hex[:12]}", "model": "m1", "base_url": "http://127.0.0.1:9/v1",
        "served_model": "m1", "region": "jp-east", "site": "dc-1", "tier": "heavy",
        "profile": {"context_tokens": 2048, "max_output_tokens": 256}, **changes,
    }  # fmt: skip


def a_rate_card(rate_card_id: str | None = None, **changes: Any) -> dict[str, Any]:
    """Prices of a model that no other test has."""
    return {
        "rate_card_id": rate_card_id or f"card-{uuid4().hex[:12]}", "model": f"m-{uuid4().hex[:8]}",
        "effective_from": "2026-01-01T00:00:00+09:00", "input_price": 1, "cached_input_price": 1, "output_price": 2,
        **changes,
    }  # fmt: skip


def an_agreement(agreement_id: str | None = None, **changes: Any) -> dict[str, Any]:
    """A commitment from the year 2027 on."""
    return {
        "agreement_id": agreement_id or f"a-{uuid4().hex[:12]}", "effective_from": "2027-01-01T00:00:00+09:00",
        "terms": {"kind": "commitment", "minimum_yen": 1000}, **changes,
    }  # fmt: skip


def a_credit(**changes: Any) -> dict[str, Any]:
    """Money paid ahead for 2027."""
    return {
        "credit_id": f"c-{uuid4().hex[:12]}", "yen": 5_000, "effective_from": "2026-12-01T00:00:00+09:00",
        "expires_at": "2028-01-01T00:00:00+09:00", **changes,
    }  # fmt: skip


def an_issuer(**changes: Any) -> dict[str, Any]:
    """An issuer whose document numbers no other has."""
    name = uuid4().hex[:8]
    return {
        "issuer_id": f"i-{name}", "name": "発行 株式会社", "registration_number": "T8700110005901",
        "number_prefix": name.upper(), **changes,
    }  # fmt: skip


def an_owner() -> str:
    """A corporate number with the right check digit that no other test has."""
    digits = str(uuid4().int)[:12]
    total = sum(int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return f"{9 - total % 9}{digits}"


def a_contribution(**changes: Any) -> dict[str, Any]:
    """What an owner that no other test has contributed in March 2026."""
    return {
        "contribution_id": f"c-{uuid4().hex[:12]}", "contributor": "機械 株式会社", "hojin_bangou": an_owner(),
        "industry": "manufacturing", "data_contract": "DC-2026-001", "data_class": "restricted",
        "contributed_at": "2026-03-01T00:00:00+09:00", **changes,
    }  # fmt: skip


def a_model(**changes: Any) -> dict[str, Any]:
    """A derived model version."""
    return {"model": f"m-{uuid4().hex[:8]}", "model_version": "1.0.0", "origin": "derived", **changes}


# Issuer and approver of every policy of the session: they never change.
POLICY_KEYS = {party: SigningKey.generate() for party in ("policy-house", "policy-office")}


def a_policy(version: int, **changes: Any) -> dict[str, Any]:
    """A priority policy of that version, which begins in the far future."""
    begins = datetime(2099, 1, 1, tzinfo=UTC) + timedelta(days=version)
    return {
        "v": 1, "version": version, "supersedes": version - 1 or None, "issuer": "policy-house",
        "approver": "policy-office", "signed_at": "2026-11-01T00:00:00Z", "effective_from": begins.isoformat(),
        "floors": {"open": 400}, **changes,
    }  # fmt: skip


async def next_policy(root: Administrator) -> int:
    """The version that the next policy has; its parties are trusted."""
    for party, key in POLICY_KEYS.items():
        await root.ask("POST", "/trust-keys", trust_body(key, "issuer", party))
    return 1 + len((await root.good("GET", "/priority/policies"))["data"])


def a_raise(**changes: Any) -> dict[str, Any]:
    """A higher limit until the end of time, nearly."""
    end = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    return {"level": "tenant", "limit_name": "rpm", "value": 120, "ends_at": end, "reason": "a fair", **changes}


@dataclass(frozen=True, slots=True)
class Estate:
    """A tenant and the ids of what it has, besides things that have no tenant."""

    parties: Parties
    tenant: str
    project: str
    key: str
    client: str
    issuer: str
    licence: str
    envelope: str
    upstream: str
    rate_card: str
    trust_key: str
    admin_key: str
    agreement: str
    billing_issuer: str
    invoice: str
    webhook: str
    event: str
    raise_id: str
    contribution: str
    policy: str

    @classmethod
    async def made(cls, admin: Administration, parties: Parties) -> "Estate":
        """A new one."""
        root = admin.root
        tenant = (await root.good("POST", "/tenants", tenant_body()))["tenant_id"]
        own = f"/tenants/{tenant}"
        await root.good("POST", f"{own}/projects", {"project_id": "p1"})
        document = licence_document(tenant, parties.issuer)
        envelope = await parties.sealed(document)
        issuer = {"issuer": f"https://{uuid4().hex}.example", "audience": "sekisho"}
        in_force = an_agreement(effective_from="2026-01-01T00:00:00+09:00")  # so that there is something to invoice
        trust = trust_body(SigningKey.generate(), "licensee", tenant)
        webhook = (await root.good("POST", f"{own}/webhooks", {"url": "https://hooks.example"}))["endpoint_id"]
        return cls(
            parties, tenant, "p1", (await root.good("POST", f"{own}/keys", {"label": "app"}))["key_id"],
            (await root.good("POST", f"{own}/clients", {"label": "app", "jwks": a_jwks()}))["client_id"],
            (await root.good("POST", f"{own}/issuers", issuer))["issuer_id"],
            (await root.good("POST", "/licences", {"envelope": envelope}))["licence_id"], envelope,
            (await root.good("POST", "/upstreams", an_upstream()))["upstream_id"],
            (await root.good("POST", "/rate-cards", a_rate_card()))["rate_card_id"],
            (await root.good("POST", "/trust-keys", trust))["key_id"],
            (await root.good("POST", "/admin-keys", {"role": "auditor"}))["key_id"],
            (await root.good("POST", f"{own}/agreements", in_force))["agreement_id"],
            *await _invoiced(root, own),
            webhook, (await root.good("POST", f"/webhooks/{webhook}/test"))["event_id"],
            (await root.good("POST", f"{own}/raises", a_raise()))["raise_id"],
            (await root.good("POST", "/contributions", a_contribution()))["contribution_id"],
            seal(a_policy(await next_policy(root)), list(POLICY_KEYS.values()), PAYLOAD_TYPE),
        )  # fmt: skip

    def path(self, route: str) -> str:
        """The path of a route for what is this tenant's."""
        values = {
            "tenant_id": self.tenant, "project_id": self.project, "client_id": self.client,
            "issuer_id": self.billing_issuer if "billing-issuers" in route else self.issuer,
            "licence_id": self.licence, "upstream_id": self.upstream, "rate_card_id": self.rate_card,
            "agreement_id": self.agreement, "raise_id": self.raise_id, "endpoint_id": self.webhook, "period": "2026-02",
            "number": self.invoice, "contribution_id": self.contribution,
            "key_id": self.trust_key if "trust" in route else self.admin_key if "admin" in route else self.key,
        }  # fmt: skip
        # How a tenant stands is asked with a model.
        return route.format(**values) + ("?model=m1" if route.endswith("/priority") else "")

    def body(self, method: str, route: str) -> Any:
        """A body that fits, None where the route takes none. `KeyError` for a route that nobody has thought of."""
        return None if method == "GET" else BODIES[method, route](self)

    def desired(self) -> dict[str, Any]:
        """The tenant as it is: an application of it changes nothing but what the test of another route left behind."""
        return {"desired": {"tenants": [{**tenant_body(self.tenant), "projects": [{"project_id": "p1"}]}]}}


async def _invoiced(root: Administrator, own: str) -> tuple[str, str]:
    """An issuer, and the number of the first invoice of the tenant with the path `own`."""
    issuer = (await root.good("POST", "/billing-issuers", an_issuer()))["issuer_id"]
    await root.good("POST", f"{own}/billing-party", {"issuer_id": issuer, "name": "例 株式会社"})
    return issuer, (await root.good("POST", f"{own}/invoices/2026-01/close"))["number"]


def _fresh(name: str) -> str:
    return f"{name}-{uuid4().hex[:8]}"


BODIES: dict[tuple[str, str], Callable[[Estate], Any]] = {
    ("POST", "/tenants"): lambda _: tenant_body(),
    ("PATCH", "/tenants/{tenant_id}"): lambda _: {"rpm": 61},
    ("POST", "/tenants/{tenant_id}/sites"): lambda _: {"sites": [_fresh("site")]},
    ("POST", "/tenants/{tenant_id}/raises"): lambda _: a_raise(),
    ("POST", "/raises/{raise_id}/revoke"): lambda _: None,
    ("POST", "/tenants/{tenant_id}/projects"): lambda _: {"project_id": _fresh("p")},
    ("PATCH", "/tenants/{tenant_id}/projects/{project_id}"): lambda _: {"name": "P"},
    ("POST", "/tenants/{tenant_id}/keys"): lambda _: {"label": _fresh("k")},
    ("PATCH", "/keys/{key_id}"): lambda _: {"label": _fresh("k")},
    ("POST", "/keys/{key_id}/rotate"): lambda _: {},
    ("POST", "/keys/{key_id}/revoke"): lambda _: None,
    ("POST", "/tenants/{tenant_id}/clients"): lambda _: {"jwks": a_jwks()},
    ("PATCH", "/clients/{client_id}"): lambda _: {"binding": "dpop"},
    ("POST", "/clients/{client_id}/revoke"): lambda _: None,
    ("POST", "/tenants/{tenant_id}/issuers"): lambda _: {"issuer": f"https://{_fresh('i')}.example", "audience": "a"},
    ("PATCH", "/issuers/{issuer_id}"): lambda _: {"audience": "other"},
    ("POST", "/issuers/{issuer_id}/revoke"): lambda _: None,
    ("POST", "/licences"): lambda estate: {"envelope": estate.envelope},
    ("POST", "/licences/{licence_id}/revoke"): lambda _: {"reason": "the contract ended"},
    ("POST", "/licences/simulate"): lambda estate: {"envelope": estate.envelope},
    ("POST", "/trust-keys"): lambda estate: trust_body(SigningKey.generate(), "licensee", estate.tenant),
    ("POST", "/trust-keys/{key_id}/retire"): lambda _: {"not_after": "2021-01-01T00:00:00Z"},
    ("POST", "/trust-keys/{key_id}/revoke"): lambda _: None,
    ("POST", "/upstreams"): lambda _: an_upstream(),
    ("PATCH", "/upstreams/{upstream_id}"): lambda _: {"operator": _fresh("o")},
    ("POST", "/upstreams/{upstream_id}/retire"): lambda _: None,
    ("POST", "/rate-cards"): lambda _: a_rate_card(),
    ("PATCH", "/rate-cards/{rate_card_id}"): lambda _: {"effective_to": "2099-01-01T00:00:00Z"},
    ("POST", "/tenants/{tenant_id}/webhooks"): lambda _: {"url": f"https://{_fresh('w')}.example/x"},
    ("PATCH", "/webhooks/{endpoint_id}"): lambda _: {"label": _fresh("w")},
    ("DELETE", "/webhooks/{endpoint_id}"): lambda _: None,
    ("POST", "/webhooks/{endpoint_id}/rotate"): lambda _: {},
    ("POST", "/webhooks/{endpoint_id}/test"): lambda _: None,
    ("POST", "/webhooks/{endpoint_id}/redeliver"): lambda estate: {"event_id": estate.event},
    ("POST", "/tenants/{tenant_id}/agreements"): lambda _: an_agreement(),
    ("PATCH", "/agreements/{agreement_id}"): lambda _: {"effective_to": "2099-01-01T00:00:00Z"},
    ("POST", "/tenants/{tenant_id}/credits"): lambda _: a_credit(),
    ("POST", "/tenants/{tenant_id}/billing-party"): lambda estate: {"issuer_id": estate.billing_issuer, "name": "例"},
    ("POST", "/billing-issuers"): lambda _: an_issuer(),
    ("PATCH", "/billing-issuers/{issuer_id}"): lambda _: {"address": _fresh("address")},
    ("POST", "/tenants/{tenant_id}/invoices/{period}/close"): lambda _: None,
    ("POST", "/invoices/{number}/credit"): lambda _: {"reason": "agreed on the phone"},
    ("POST", "/contributions"): lambda _: a_contribution(),
    ("POST", "/contributions/{contribution_id}/withdraw"): lambda _: None,
    ("POST", "/models"): lambda estate: a_model(contributions=[estate.contribution]),
    ("POST", "/priority/policies"): lambda estate: {"envelope": estate.policy},
    ("POST", "/admin-keys"): lambda _: {"role": "auditor"},
    ("POST", "/admin-keys/{key_id}/revoke"): lambda _: None,
    ("POST", "/plan"): Estate.desired,
    ("POST", "/apply"): Estate.desired,
}
