"""The administration log in the book: written with the change itself, read by auditors."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.control.audit import Act
from gateway.control.principal import Reach

_INSERT = "INSERT INTO audit_pending (tenant_id, log, record) VALUES ($1, 'administration', $2)"

_READ = """
SELECT id, record FROM audit_pending
WHERE log = 'administration' AND ($1::text[] IS NULL OR tenant_id = ANY($1))
  AND ($2::text IS NULL OR tenant_id = $2) AND ($3::timestamptz IS NULL OR created_at >= $3)
  AND ($4::timestamptz IS NULL OR created_at < $4) AND ($5::text IS NULL OR record::jsonb->'actor'->>'key_id' = $5)
  AND ($6::text IS NULL OR record::jsonb->>'verb' LIKE $6) AND ($7::text IS NULL OR record::jsonb->>'object' = $7)
  AND ($8::bigint IS NULL OR id < $8)
ORDER BY id DESC LIMIT $9
"""


@dataclass(frozen=True, slots=True)
class Entries:
    """Which entries of the log, newest first; None: not restricted. `verb` may end in `*`; `before` is the id that a
    page ended at."""

    tenant_id: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    actor: str | None = None
    verb: str | None = None
    object_id: str | None = None
    before: int | None = None
    limit: int = 100


async def record(connection: Any, act: Act) -> None:
    """Add the record of `act`; call it in the transaction of the change."""
    await connection.execute(_INSERT, act.tenant_id, act.canonical())


async def entries(connection: Any, wanted: Entries, reach: Reach) -> list[dict[str, Any]]:
    """The entries, each with its `id`."""
    rows = await connection.fetch(
        _READ, reach.argument(), wanted.tenant_id, wanted.start, wanted.end, wanted.actor, _pattern(wanted.verb),
        wanted.object_id, wanted.before, wanted.limit,
    )  # fmt: skip
    return [{"id": row["id"], **json.loads(row["record"])} for row in rows]


def _pattern(verb: str | None) -> str | None:
    """SQL's pattern of a verb in which only a last `*` means anything."""
    if verb is None:
        return None
    stem = verb.removesuffix("*")
    literal = stem.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return literal + "%" if stem != verb else literal
