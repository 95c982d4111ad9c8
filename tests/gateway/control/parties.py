"""An issuer and its licensees with keys of their own, as the admin plane is told of them."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from gateway.licensing.envelope import seal
from gateway.licensing.keys import SigningKey
from tests.gateway.control.admin import Administrator

NOT_BEFORE = "2020-01-01T00:00:00Z"


def trust_body(key: SigningKey, role: str, party: str) -> dict[str, Any]:
    """The body that makes `key` trusted."""
    public = base64.b64encode(key.public_bytes).decode()
    return {"role": role, "party": party, "public_key": public, "not_before": NOT_BEFORE}


@dataclass(frozen=True, slots=True)
class Parties:
    """Keys by party; an issuer's name is nobody else's."""

    root: Administrator
    issuer: str
    keys: dict[str, SigningKey]

    @classmethod
    async def trusted(cls, root: Administrator) -> "Parties":
        """A new issuer whose key is trusted."""
        issuer = f"issuer-{uuid4().hex[:8]}"
        parties = cls(root, issuer, {issuer: SigningKey.generate()})
        await root.good("POST", "/trust-keys", trust_body(parties.keys[issuer], "issuer", issuer))
        return parties

    async def licensee(self, tenant_id: str) -> SigningKey:
        """The trusted key of a tenant, made when it is first asked for."""
        if tenant_id not in self.keys:
            self.keys[tenant_id] = SigningKey.generate()
            await self.root.good("POST", "/trust-keys", trust_body(self.keys[tenant_id], "licensee", tenant_id))
        return self.keys[tenant_id]

    async def sealed(self, document: Mapping[str, Any]) -> str:
        """The document signed by its issuer and its licensee."""
        licensee = await self.licensee(document["licensee"]["tenant"])
        return seal(document, [self.keys[document["issuer"]], licensee])
