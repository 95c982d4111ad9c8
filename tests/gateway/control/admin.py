"""The admin plane in the test's process, asked over ASGI, with keys of every role."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx

from gateway.control.app import PREFIX

BASE = "http://admin"


@dataclass(frozen=True, slots=True)
class Administrator:
    """Somebody with an admin key (or without: '')."""

    app: Any
    key: str
    address: str = "192.0.2.1"

    async def ask(
        self, method: str, path: str, body: Any = None, *, language: str = "en", **options: Any
    ) -> httpx.Response:
        """The response; `path` is below `/admin/v1`."""
        headers = {"accept-language": language, **options.pop("extra_headers", {})}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        if body is not None:
            options["json"] = body
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(self.address, 1))
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            return await client.request(method, f"{PREFIX}{path}", headers=headers, **options)

    async def good(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The answer to a request that must succeed."""
        response = await self.ask(method, path, body, **options)
        assert response.is_success, response.text
        return response.json()

    async def error(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, dict[str, Any]]:
        """Status and error of a request that must be refused."""
        response = await self.ask(method, path, body, **options)
        assert response.is_error, response.text
        error: dict[str, Any] = response.json()["error"]
        assert error["request_id"] == response.headers["x-request-id"]
        return response.status_code, error


@dataclass(frozen=True, slots=True)
class Administration:
    """The plane, and its first administrator."""

    app: Any
    root: Administrator
    data_dir: Any
    dsn: str
    keys: dict[str, str] = field(default_factory=dict)

    async def somebody(self, role: str, *tenants: str) -> Administrator:
        """A new administrator of `role`."""
        issued = await self.root.good("POST", "/admin-keys", {"role": role, "tenants": list(tenants)})
        return Administrator(self.app, issued["key"])


def tenant_body(tenant_id: str | None = None, **changes: Any) -> dict[str, Any]:
    """A new tenant that no other test knows."""
    return {
        "tenant_id": tenant_id or f"t-{uuid4().hex[:12]}", "legal_name": "例 株式会社", "tokens_month": 10**6,
        "micro_yen_month": 10**12, "rpm": 60, "concurrency": 4, **changes,
    }  # fmt: skip


def licence_document(tenant_id: str, issuer: str, **changes: Any) -> Mapping[str, Any]:
    """A document for a year from yesterday."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    return {
        "v": 1, "licence_id": f"lic-{tenant_id}"[:32], "version": 1, "supersedes": None, "issuer": issuer,
        "licensee": {"tenant": tenant_id, "legal_name": "例 株式会社", "class": "public", "country": "JP"},
        "validity": {"not_before": start.isoformat(), "not_after": (start + timedelta(days=365)).isoformat()},
        "grants": [{"id": "g1", "models": ["m1"], "actions": ["chat"]}], **changes,
    }  # fmt: skip
