"""Who asks on the admin plane: admin keys only. A key of the data plane is as good as none.

A key is looked at twice: at the door, and again in the transaction that does the work. In between a body may have taken
its time, or another change the lock, and meanwhile the key may have ended.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.control.admin_key_store import StoredAdminKey, book_time, find_admin_key
from gateway.control.principal import EVERYWHERE, AdminPrincipal, Reach
from gateway.control.roles import Role
from gateway.identity.access import ended
from gateway.identity.keys import Pepper, key_id_of, matches
from gateway.identity.refusals import refusal

_BEARER = re.compile(r"bearer +([^\s]+) *", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """An admin key in form: its whole text, and the id in it."""

    text: str
    key_id: str


def presented_key(authorization: str | None) -> PresentedKey:
    """The admin key in `Authorization: Bearer` (RFC 6750), not yet looked up. Raises `Fault` with `missing_api_key` or
    `invalid_api_key`."""
    found = _BEARER.fullmatch(authorization or "")
    if found is None:
        raise refusal("missing_api_key")
    text = found[1]
    key_id = key_id_of(text, prefix="ska")
    if key_id is None:
        raise refusal("invalid_api_key")
    return PresentedKey(text, key_id)


async def authenticate(connection: Any, presented: PresentedKey, peppers: Mapping[str, Pepper]) -> AdminPrincipal:
    """The holder of an admin key.

    Raises `Fault`: `invalid_api_key`, and to the holder of the whole key `key_revoked` or `key_expired`.
    """
    now = await book_time(connection)
    key = await find_admin_key(connection, presented.key_id)
    if not matches(presented.text, key, peppers) or key is None:
        raise refusal("invalid_api_key")
    return _principal(key, now)


async def authenticate_again(connection: Any, actor: AdminPrincipal) -> datetime:
    """The time of the book, if `actor`'s key is still in force and what it was. Raises `Fault` as `authenticate`."""
    now = await book_time(connection)
    key = await find_admin_key(connection, actor.key_id)
    if key is None or _principal(key, now) != actor:
        raise refusal("invalid_api_key")
    return now


def _principal(key: StoredAdminKey, now: datetime) -> AdminPrincipal:
    why = ended(key.revoked_at, key.expires_at, now)
    if why:
        raise refusal(f"key_{why}")
    return AdminPrincipal(key.key_id, key.role, Reach(key.tenants) if key.role is Role.SI_ENGINEER else EVERYWHERE)
