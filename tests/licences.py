"""Licence documents for tests."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.tenancy.parties import ISSUER

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)


def a_licence(
    tenant_id: str,
    licence_id: str,
    grants: Sequence[Mapping[str, Any]],
    not_before: datetime = START,
    not_after: datetime = END,
    *,
    version: int = 1,
    **changes: Any,
) -> dict[str, Any]:
    """A document as it is before it is signed; `changes` replace whole members."""
    document = {
        "v": 1,
        "licence_id": licence_id,
        "version": version,
        "supersedes": version - 1 or None,
        "issuer": ISSUER,
        "licensee": {"tenant": tenant_id, "legal_name": tenant_id, "class": "public", "country": "JP"},
        "validity": {"not_before": not_before.isoformat(), "not_after": not_after.isoformat()},
        "grants": [dict(grant) for grant in grants],
    }
    return {**document, **changes}
