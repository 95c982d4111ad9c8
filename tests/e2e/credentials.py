"""One credential of every kind for a tenant of a test, and how a request presents it."""

import json
import secrets
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import httpx
from joserfc.jwk import Key

from gateway.identity.credentials import Binding
from gateway.identity.grants import TOKEN_PATH
from tests.e2e.stack import Stack, until
from tests.e2e.tenants import Tenant
from tests.gateway.identity.loopback_issuer import LoopbackIssuer
from tests.gateway.identity.making import Holder, a_key, jwks_of, signed

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
Headers = Callable[[str, str], dict[str, str]]
"""method, URL → what authenticates a request to it"""


@dataclass(frozen=True)
class Credential:
    """A credential of `tenant`. `credential_id` is what the journal names; `way` is how its requests must travel."""

    kind: str
    tenant: Tenant
    credential_id: str
    headers: Headers
    way: "Way"


@dataclass(frozen=True)
class Way:
    """A gateway's address without a path, and the TLS context to reach it with (None: no TLS)."""

    root: str
    tls: ssl.SSLContext | None = None

    def client(self) -> httpx.AsyncClient:
        """An HTTP client for it."""
        return httpx.AsyncClient(base_url=self.root, verify=self.tls or True, trust_env=False, timeout=20)


def api_key(stack: Stack, tenant: Tenant) -> Credential:
    """The tenant's API key."""
    return Credential("key", tenant, tenant.key_id, lambda _method, _url: tenant.headers, Way(stack.root))


async def client(stack: Stack, tenant: Tenant, binding: Binding = "none", way: Way | None = None) -> Credential:
    """An OAuth client with a token, bound to a DPoP key, to the certificate of `way`, or to nothing."""
    client_id, key = "oc_" + secrets.token_hex(6), a_key("ES256", "c1")
    way = way or Way(stack.root)
    connection = await stack.connect()
    try:
        await connection.execute(
            "INSERT INTO oauth_client (client_id, tenant_id, jwks, binding) VALUES ($1, $2, $3::jsonb, $4)",
            client_id, tenant.tenant_id, json.dumps(jwks_of(key)), binding,
        )  # fmt: skip
    finally:
        await connection.close()
    holder = Holder.make() if binding == "dpop" else None

    async def token() -> str | None:
        return await _token(way, client_id, key, holder)

    text = await until(token, 3.0, "the token endpoint does not know the client")
    if holder is None:
        plain = {"authorization": f"Bearer {text}"}
        return Credential(f"client {binding}", tenant, client_id, lambda _method, _url: plain, way)

    def headers(method: str, url: str) -> dict[str, str]:
        proof = holder.proof(text, htm=method, htu=url, iat=int(time.time()))
        return {"authorization": f"DPoP {text}", "dpop": proof}

    return Credential("client dpop", tenant, client_id, headers, way)


async def _token(way: Way, client_id: str, key: Key, holder: Holder | None) -> str | None:
    url = way.root + TOKEN_PATH
    claims = {"iss": client_id, "sub": client_id, "aud": url, "exp": int(time.time()) + 60, "jti": uuid4().hex}
    form = {
        "grant_type": "client_credentials", "client_assertion_type": ASSERTION,
        "client_assertion": signed(key, "ES256", claims),
    }  # fmt: skip
    proof = {} if holder is None else {"dpop": holder.proof(None, htu=url, iat=int(time.time()))}
    async with way.client() as asking:
        answer = await asking.post(TOKEN_PATH, data=form, headers=proof)
    return str(answer.json()["access_token"]) if answer.status_code == 200 else None


async def issuer_token(stack: Stack, tenant: Tenant, issuer: LoopbackIssuer) -> Credential:
    """A token of the tenant's own OpenID issuer."""
    issuer_id = "oi_" + secrets.token_hex(6)
    connection = await stack.connect()
    try:
        await connection.execute(
            "INSERT INTO oidc_issuer (issuer_id, tenant_id, issuer, audience) VALUES ($1, $2, $3, 'sekisho')",
            issuer_id, tenant.tenant_id, issuer.url,
        )  # fmt: skip
    finally:
        await connection.close()
    now = int(time.time())
    text = issuer.token(aud="sekisho", iat=now, exp=now + 600)
    plain = {"authorization": f"Bearer {text}"}
    return Credential("issuer", tenant, issuer_id, lambda _method, _url: plain, Way(stack.root))
