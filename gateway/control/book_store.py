"""The book as files are compared with it: everything within reach, read at once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.control import store
from gateway.control.licence_store import newest_rows
from gateway.control.principal import Reach
from gateway.control.store import Row
from gateway.control.tables import (
    AGREEMENT,
    CLIENT,
    CONTRIBUTION,
    ISSUER,
    KEY,
    MODEL,
    PROJECT,
    RATE_CARD,
    TENANT,
    TRUST_KEY,
    UPSTREAM,
    Page,
    Table,
)

_ROWS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Book:
    """Rows by table and key; of licences the newest version by id. `epoch` is that of the moment, `replaced`
    are the ids of keys that have a successor, `own` are a tenant's rows by table and tenant."""

    epoch: int
    rows: Mapping[str, Mapping[tuple[Any, ...], Row]]
    licences: Mapping[str, Row]
    replaced: frozenset[str]
    own: Mapping[tuple[str, str], list[Row]]

    def find(self, table: Table, *key: str) -> Row | None:
        """The row of that key."""
        return self.rows[table.name].get(key)

    def all(self, table: Table) -> Iterable[Row]:
        """The rows of a table in the order of their keys."""
        return self.rows[table.name].values()

    def of(self, table: Table, tenant_id: str) -> list[Row]:
        """A tenant's rows."""
        return self.own.get((table.name, tenant_id), [])


async def read_book(connection: Any, reach: Reach) -> Book:
    """Everything within reach."""
    rows: dict[str, dict[tuple[Any, ...], Row]] = {}
    own: dict[tuple[str, str], list[Row]] = {}
    for table in (
        TENANT, PROJECT, KEY, CLIENT, ISSUER, TRUST_KEY, UPSTREAM, RATE_CARD, AGREEMENT, CONTRIBUTION, MODEL
    ):  # fmt: skip
        found = await store.page(connection, table, Page(limit=_ROWS_MAX), reach)
        rows[table.name] = {tuple(row[column] for column in table.key): row for row in found}
        for row in found if table.scoped else ():
            own.setdefault((table.name, row["tenant_id"]), []).append(row)
    licences = await newest_rows(connection, None, "", _ROWS_MAX, reach)
    replaced = frozenset(row["replaces"] for row in rows[KEY.name].values() if row["replaces"])
    return Book(await read_epoch(connection), rows, {row["licence_id"]: row for row in licences}, replaced, own)


async def read_epoch(connection: Any) -> int:
    """The epoch that this transaction sees."""
    epoch: int = await connection.fetchval("SELECT epoch FROM config_epoch")
    return epoch
