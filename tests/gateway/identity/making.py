"""What the tests of identity present: keys, tokens, proofs, credentials; the gateway's own and hostile ones."""

import base64
import hmac
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from gateway.identity.access import Access, CredentialKind
from gateway.identity.credentials import ApiKey, Binding, Credentials, OAuthClient, OidcIssuer, Presented
from gateway.identity.dpop import digest
from gateway.identity.keys import NewKey
from gateway.identity.settings import IdentitySettings
from gateway.settings import Settings
from gateway.upstreams.client import Timeouts

NOW_S = 1_800_000_000
NOW = NOW_S * 1_000_000
SECOND = 1_000_000
BASE = "https://gateway.example.jp"
URL = f"{BASE}/v1/chat/completions"
NO_VALKEY = "redis://127.0.0.1:1/0"
_SIGNABLE = ("Ed25519", "ES256", "PS256", "RS256")


def an_address() -> str:
    """An IPv6 address whose /64 no other test uses."""
    return f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"


def settings_of(data_dir: Path, valkey_url: str = NO_VALKEY, **identity: Any) -> Settings:
    """Settings of a gateway at `BASE`."""
    chosen = IdentitySettings(**{"public_urls": (BASE,), **identity})
    return Settings(data_dir, "postgresql://", valkey_url, Timeouts(), 1.0, chosen)


def an_access(credential_id: str, kind: CredentialKind = "key", **fields: Any) -> Access:
    """A credential of tenant-a."""
    return Access(credential_id, kind, **{"tenant_id": "tenant-a", **fields})


def credentials_of(*stored: ApiKey | OAuthClient | OidcIssuer) -> Credentials:
    """A snapshot's credentials."""
    return Credentials(
        {one.access.credential_id: one for one in stored if isinstance(one, ApiKey)},
        {one.access.credential_id: one for one in stored if isinstance(one, OAuthClient)},
        {one.issuer: one for one in stored if isinstance(one, OidcIssuer)},
    )


def stored_key(key: NewKey, **fields: Any) -> ApiKey:
    """The row of an API key."""
    return ApiKey(an_access(key.key_id, **fields), key.mac, key.pepper_id)


def a_key(alg: str = "Ed25519", kid: str | None = None) -> Key:
    """A private key for signatures with `alg`."""
    parameters: Any = {} if kid is None else {"kid": kid}
    if alg == "Ed25519":
        return OKPKey.generate_key("Ed25519", parameters)
    if alg == "ES256":
        return ECKey.generate_key("P-256", parameters)
    return RSAKey.generate_key(2048, parameters)


def jwks_of(*keys: Key) -> dict[str, Any]:
    """The public JWK set of `keys`."""
    return {"keys": [key.as_dict(private=False) for key in keys]}


def signed(key: Key, alg: str, claims: dict[str, Any], **header: Any) -> str:
    """A JWT; header parameters of value None are left out."""
    parameters = {"alg": alg, "kid": key.kid, **header}
    parameters = {name: value for name, value in parameters.items() if value is not None}
    return jws.serialize_compact(
        parameters, json.dumps(claims).encode(), key, registry=jws.JWSRegistry(None, _SIGNABLE, False)
    )


def raw_jwt(header: Any, claims: Any, signature: bytes = b"") -> str:
    """A JWT of whatever is given, without a look at it."""
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def ed25519_jwt(key: OKPKey, header: Any, claims: Any) -> str:
    """A JWT signed with an Ed25519 key, with any header that a library would refuse to sign."""
    unsigned = raw_jwt(header, claims).rpartition(".")[0]
    private = key.private_key
    assert isinstance(private, Ed25519PrivateKey)
    return f"{unsigned}.{base64.urlsafe_b64encode(private.sign(unsigned.encode())).rstrip(b'=').decode()}"


def hmac_jwt(secret: bytes, claims: Any, **header: Any) -> str:
    """A JWT with HMAC-SHA-256 under `secret`, which a library would refuse to make with a public key for secret."""
    unsigned = raw_jwt({"alg": "HS256", **header}, claims).rpartition(".")[0]
    signature = hmac.digest(secret, unsigned.encode(), "sha256")
    return f"{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@dataclass(frozen=True, slots=True)
class Holder:
    """One who holds the private key that DPoP tokens are bound to."""

    key: Key
    alg: str = "ES256"

    @classmethod
    def make(cls, alg: str = "ES256") -> "Holder":
        """A holder of a fresh key."""
        return cls(a_key(alg), alg)

    @property
    def jkt(self) -> str:
        """The thumbprint of the key (RFC 7638)."""
        return self.key.thumbprint()

    def proof(self, token: str | None, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A proof for POST `URL` at `NOW`; `claims` and `header` replace its own, None leaves one out."""
        said = {"jti": uuid4().hex, "htm": "POST", "htu": URL, "iat": NOW_S, "ath": token and digest(token), **claims}
        parameters = {"typ": "dpop+jwt", "jwk": self.key.as_dict(private=False), "kid": None, **(header or {})}
        return signed(
            self.key, self.alg, {name: value for name, value in said.items() if value is not None}, **parameters
        )


def bearer(text: str, **fields: Any) -> Presented:
    """A POST to `URL` with a bearer token."""
    return Presented(f"Bearer {text}", **{"method": "POST", "url": URL, "address": an_address(), **fields})


def dpop(text: str, proof: str | None, **fields: Any) -> Presented:
    """A POST to `URL` with a token under the scheme DPoP, and a proof."""
    return Presented(f"DPoP {text}", proof, **{"method": "POST", "url": URL, "address": an_address(), **fields})


def a_client(key: Key, binding: Binding = "none", **fields: Any) -> OAuthClient:
    """A registered client with one key."""
    client_id = f"oc_{secrets.token_hex(6)}"
    return OAuthClient(an_access(client_id, "client", **fields), jwks_of(key), binding)
