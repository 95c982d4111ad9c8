"""Secrets of webhooks and what is signed with them: `webhook-id`, `-timestamp` and `-signature` (Standard Webhooks)."""

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks.webhooks import Webhook

from gateway.tenancy.keystore import TenantKey, TenantKeys, opened

SECRET_BYTES = 32
_PREFIX = "whsec_"
_PURPOSE = "webhook-secret"


def new_secret() -> str:
    """A secret as its owner is shown it, once."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")


def sealed(secret: str, key: TenantKey, endpoint_id: str) -> bytes:
    """A secret as it is stored: under the tenant's key, for this endpoint only."""
    return key.seal(_PURPOSE, secret.encode("ascii"), endpoint_id.encode("ascii"))


def unsealed(stored: bytes, keys: TenantKeys, tenant_id: str, endpoint_id: str) -> str:
    """The secret. Raises `gateway.tenancy.keystore.Sealed` when the tenant's key was destroyed."""
    return opened(keys, tenant_id, _PURPOSE, stored, endpoint_id.encode("ascii")).decode("ascii")


def headers_of(event_id: str, body: str, now: datetime, secrets_in_force: Sequence[str]) -> dict[str, str]:
    """The headers of one attempt at `now` (aware, UTC), signed with each secret that is in force, the newest first."""
    signatures = [Webhook(secret).sign(event_id, now, body) for secret in secrets_in_force]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
