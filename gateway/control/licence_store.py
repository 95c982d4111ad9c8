"""Licences in the book as admission needs them: the newest version of each, with those that they are cut from."""

from dataclasses import dataclass
from typing import Any

from gateway.control.principal import Reach
from gateway.control.store import Row, columns_of, find, is_storable, row_of
from gateway.control.tables import LICENCE
from gateway.licensing.document import StoredLicence
from gateway.licensing.envelope import Sealed, open_envelope
from gateway.licensing.times import to_us

_VERSION = """
SELECT version FROM licence WHERE licence_id = $1 AND ($2::text[] IS NULL OR tenant_id = ANY($2))
ORDER BY version DESC LIMIT 1
"""
_ENVELOPE = "SELECT envelope, revoked_at FROM licence WHERE licence_id = $1 ORDER BY version DESC LIMIT 1"
_NEWEST = f"""
SELECT DISTINCT ON (licence_id) {columns_of(LICENCE)} FROM licence
WHERE ($1::text[] IS NULL OR tenant_id = ANY($1)) AND ($2::text IS NULL OR tenant_id = $2) AND licence_id > $3
ORDER BY licence_id, version DESC LIMIT $4
"""  # noqa: S608 # constants


_EXCLUSIVE = """
SELECT DISTINCT licence_id FROM licence
WHERE document -> 'ip' -> 'exclusive' @> jsonb_build_array(jsonb_build_object('model', $1::text))
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored envelope; `revoked_at` in microseconds since the epoch."""

    sealed: Sealed
    revoked_at: int | None

    @property
    def stored(self) -> StoredLicence:
        """As admission and compilation take it."""
        return StoredLicence(self.sealed.document, self.sealed.digest, self.revoked_at)


async def newest_row(connection: Any, licence_id: str, reach: Reach) -> Row | None:
    """The row of the highest version within reach."""
    if not is_storable(licence_id):
        return None
    version = await connection.fetchval(_VERSION, licence_id, reach.argument())
    return None if version is None else await find(connection, LICENCE, (licence_id, version), reach)


async def newest_rows(connection: Any, tenant_id: str | None, after: str, limit: int, reach: Reach) -> list[Row]:
    """The rows of the highest versions, of one tenant or of all within reach, in the order of their ids."""
    found = await connection.fetch(_NEWEST, reach.argument(), tenant_id, after, limit)
    return [row_of(LICENCE, row) for row in found]


async def line_of(connection: Any, *licence_ids: str | None) -> dict[str, Kept]:
    """The newest versions of licences and of every licence above them, by id; what is not stored is absent.

    Raises `Finding` for a stored envelope that cannot be read.
    """
    line: dict[str, Kept] = {}
    ahead = list(licence_ids)
    while ahead:
        name = ahead.pop()
        row = None if name is None or name in line else await connection.fetchrow(_ENVELOPE, name)
        if name is None or row is None or row["envelope"] is None:
            continue
        revoked_at = row["revoked_at"]
        kept = line[name] = Kept(open_envelope(row["envelope"]), None if revoked_at is None else to_us(revoked_at))
        parent = kept.sealed.document.parent
        ahead.append(None if parent is None else parent.licence_id)
    return line


async def exclusive_on(connection: Any, model: str) -> dict[str, StoredLicence]:
    """The newest versions of the licences that have stated an exclusivity on `model`, with those above them."""
    names = [row["licence_id"] for row in await connection.fetch(_EXCLUSIVE, model)]
    return {licence_id: kept.stored for licence_id, kept in (await line_of(connection, *names)).items()}
