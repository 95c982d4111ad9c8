"""Reads and writes one row of a table. Names in the SQL come from `gateway.control.tables` only, values never.

A row outside is JSON: times RFC 3339 in UTC, byte strings base64, secret columns absent.
"""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gateway.control.principal import Reach
from gateway.control.tables import ColumnKind, Page, Table

Row = dict[str, Any]

_IN_REACH = "($1::text[] IS NULL OR tenant_id = ANY($1))"


async def find(connection: Any, table: Table, key: tuple[str, ...], reach: Reach) -> Row | None:
    """The row of that key, if there is one within reach."""
    if not all(is_storable(part) for part in key):
        return None
    conditions = " AND ".join(f"{column} = ${number}" for number, column in enumerate(table.key, 2))
    query = f"SELECT {columns_of(table)} FROM {table.name} WHERE {_reach(table)} AND {conditions}"  # noqa: S608 # constants
    found = await connection.fetchrow(query, reach.argument(), *key)
    return None if found is None else row_of(table, found)


async def page(connection: Any, table: Table, wanted: Page, reach: Reach) -> list[Row]:
    """The rows of `wanted` within reach, in the order of their keys."""
    arguments: list[object] = [reach.argument()]
    conditions = [_reach(table)]
    for column, value in wanted.where.items():
        assert column in table.columns
        arguments.append(value)
        conditions.append(f"{column} = ${len(arguments)}")
    if wanted.after:
        numbers = ", ".join(f"${len(arguments) + number}" for number in range(1, len(table.key) + 1))
        arguments.extend(wanted.after)
        conditions.append(f"({', '.join(table.key)}) > ({numbers})")
    arguments.append(wanted.limit)
    query = (
        f"SELECT {columns_of(table)} FROM {table.name} WHERE {' AND '.join(conditions)}"  # noqa: S608 # constants
        f" ORDER BY {', '.join(table.key)} LIMIT ${len(arguments)}"
    )
    return [row_of(table, found) for found in await connection.fetch(query, *arguments)]


async def insert(connection: Any, table: Table, values: Mapping[str, Any]) -> Row:
    """The new row. Raises `asyncpg.UniqueViolationError` and other violations of the schema."""
    names = [name for name in values if name in table.columns]
    assert len(names) == len(values)
    places = ", ".join(_place(table.columns[name], number) for number, name in enumerate(names, 1))
    query = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({places}) RETURNING {columns_of(table)}"  # noqa: S608
    arguments = [_argument(table.columns[name], values[name]) for name in names]
    return row_of(table, await connection.fetchrow(query, *arguments))


async def update(connection: Any, table: Table, key: tuple[str, ...], changes: Mapping[str, Any]) -> Row:
    """The row after `changes`, which are at least one."""
    settings = ", ".join(
        f"{name} = {_place(table.columns[name], number)}" for number, name in enumerate(changes, len(key) + 1)
    )
    conditions = " AND ".join(f"{column} = ${number}" for number, column in enumerate(table.key, 1))
    query = f"UPDATE {table.name} SET {settings} WHERE {conditions} RETURNING {columns_of(table)}"  # noqa: S608 # constants
    arguments = [_argument(table.columns[name], value) for name, value in changes.items()]
    return row_of(table, await connection.fetchrow(query, *key, *arguments))


def is_storable(part: object) -> bool:
    """Whether PostgreSQL has such a text: none of its texts holds a NUL, and so no row has one for its id."""
    return not isinstance(part, str) or "\0" not in part


def outside(kind: ColumnKind, value: Any) -> Any:
    """A value of the application as answers and audit records show it."""
    if value is None:
        return None
    if kind == "time":
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
        return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return sorted(value) if kind == "list" else value


def _reach(table: Table) -> str:
    if table.shared:
        return f"(tenant_id IS NULL OR {_IN_REACH})"
    return _IN_REACH if table.scoped else "($1::text[] IS NULL OR true)"


def columns_of(table: Table) -> str:
    """What is selected of a table."""
    return ", ".join(
        f"{name}::text AS {name}" if kind == "json" else name
        for name, kind in table.columns.items()
        if name not in table.secret
    )


def row_of(table: Table, found: Any) -> Row:
    """A found row, as it looks outside."""
    return {name: _outside(kind, found[name]) for name, kind in table.columns.items() if name not in table.secret}


def _outside(kind: ColumnKind, value: Any) -> Any:
    if value is None:
        return None
    if kind == "json":
        return json.loads(value)
    if kind == "base64":
        return base64.b64encode(value).decode("ascii")
    return outside(kind, value)


def _place(kind: ColumnKind, number: int) -> str:
    return f"${number}::jsonb" if kind == "json" else f"${number}"


def _argument(kind: ColumnKind, value: Any) -> Any:
    if value is None:
        return None
    if kind == "json":
        return json.dumps(value, ensure_ascii=False)
    if kind == "base64":
        return base64.b64decode(value)
    return datetime.fromisoformat(value) if kind == "time" and isinstance(value, str) else value
