"""The first admin key: made by whoever holds the data folder, because there is nobody yet to ask for one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.control.admin_key_store import add_admin_key, book_time, find_admin_key
from gateway.control.audit import Act, Action, Actor, Source
from gateway.control.audit_store import record
from gateway.control.roles import Role
from gateway.control.tables import ADMIN_KEY
from gateway.identity.keys import Pepper, key_id_of, matches, new_key
from gateway.identity.secrets import load_peppers, write_private
from gateway.licensing.times import to_us

_LABEL = "data folder"


async def ensure_admin_key(connection: Any, data_dir: Path, role: str = "platform_admin") -> str:
    """The admin key in `<data_dir>/secrets/admin.key` while it is in force, else a new one, written there and into the
    book. `connection` is asyncpg's; call it in a transaction."""
    path = data_dir / "secrets" / "admin.key"
    peppers = load_peppers(data_dir)
    if path.exists():
        known = path.read_text(encoding="ascii").strip()
        if await _in_force(connection, known, role, peppers.by_id):
            return known
    key = new_key("local", peppers.current, prefix="ska")
    now = await book_time(connection)
    await add_admin_key(connection, key, Role(role), (), _LABEL)
    after = {"key_id": key.key_id, "role": role, "label": _LABEL, "tenants": []}
    act = Act(Source.LOCAL, Action.CREATE, ADMIN_KEY, key.key_id, "", Actor("", "local"), {}, after, to_us(now), "")
    await record(connection, act)
    write_private(path, key.text)
    return key.text


async def _in_force(connection: Any, text: str, role: str, peppers: Mapping[str, Pepper]) -> bool:
    key_id = key_id_of(text, prefix="ska")
    stored = None if key_id is None else await find_admin_key(connection, key_id)
    if stored is None or stored.role != role or stored.revoked_at is not None:
        return False
    if stored.expires_at is not None and stored.expires_at <= await book_time(connection):
        return False
    return matches(text, stored, peppers)
