"""Admin keys in the book: what a presented one is compared with, and how one is written without the admin plane."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.control.roles import Role
from gateway.identity.keys import NewKey


@dataclass(frozen=True, slots=True)
class StoredAdminKey:
    """An admin key without its text."""

    key_id: str
    role: Role
    tenants: frozenset[str]
    mac: bytes
    pepper_id: str
    expires_at: datetime | None
    revoked_at: datetime | None


async def find_admin_key(connection: Any, key_id: str) -> StoredAdminKey | None:
    """The key of that id."""
    row = await connection.fetchrow(
        "SELECT key_id, role, tenants, mac, pepper_id, expires_at, revoked_at FROM admin_key WHERE key_id = $1", key_id
    )
    if row is None:
        return None
    fields = dict(row)
    return StoredAdminKey(**{**fields, "role": Role(fields["role"]), "tenants": frozenset(fields["tenants"])})


async def add_admin_key(connection: Any, key: NewKey, role: Role, tenants: Sequence[str], label: str) -> None:
    """Write a new key."""
    await connection.execute(
        "INSERT INTO admin_key (key_id, role, tenants, mac, pepper_id, label) VALUES ($1, $2, $3, $4, $5, $6)",
        key.key_id, role.value, list(tenants), key.mac, key.pepper_id, label,
    )  # fmt: skip


async def book_time(connection: Any) -> datetime:
    """The time now, also where the transaction has waited, and never before the highest time that was ever stored."""
    at: datetime = await connection.fetchval("SELECT greatest(clock_timestamp(), highest_at) FROM clock_mark")
    return at
