"""When credentials were last used, as gateways note it every few seconds."""

from typing import Any

from gateway.control.store import Row, outside
from gateway.control.tables import Table


async def with_last_use(connection: Any, table: Table, rows: list[Row]) -> list[Row]:
    """The rows of credentials, each with `last_used_at` (None: never seen)."""
    ids = [table.object_id(row) for row in rows]
    used = await connection.fetch(
        "SELECT credential_id, last_used_at FROM credential_use WHERE credential_id = ANY($1)", ids
    )
    at = {row["credential_id"]: outside("time", row["last_used_at"]) for row in used}
    return [{**row, "last_used_at": at.get(name)} for name, row in zip(ids, rows, strict=True)]
