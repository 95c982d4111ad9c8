"""The schema goes up, down and up again, and is the same afterwards."""

from typing import Any

import asyncpg
import pytest

from gateway.migrations.run import migrate
from tests.conftest import Stores

_SHAPE = """
SELECT 'column' AS kind, table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable AS what
FROM information_schema.columns WHERE table_schema = 'public'
UNION SELECT 'trigger', event_object_table || '.' || trigger_name FROM information_schema.triggers
UNION SELECT 'index', indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION SELECT 'function', p.proname || md5(p.prosrc) FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
UNION SELECT 'grant', table_name || ' ' || grantee || ' ' || privilege_type
FROM information_schema.role_table_grants WHERE table_schema = 'public'
"""


async def shape(dsn: str) -> set[tuple[Any, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return {tuple(row) for row in await connection.fetch(_SHAPE)}
    finally:
        await connection.close()


async def test_round_trip_restores_the_same_schema(stores: Stores) -> None:
    admin = await asyncpg.connect(stores.dsn)
    await admin.execute("CREATE DATABASE round_trip")
    dsn = stores.dsn.replace("/sekisho?", "/round_trip?")
    try:
        await migrate(dsn)
        first = await shape(dsn)
        assert any(kind == "trigger" for kind, _ in first)
        await migrate(dsn, "base")
        assert not [what for kind, what in await shape(dsn) if kind != "grant" and "alembic_version" not in what]
        await migrate(dsn)
        await migrate(dsn)  # nothing left to do is no error
        assert await shape(dsn) == first
    finally:
        await admin.execute("DROP DATABASE round_trip WITH (FORCE)")
        await admin.close()


async def test_migration_gives_up_instead_of_queueing_behind_traffic(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.migrations.run.LOCK_TIMEOUT_MS", 200)
    admin = await asyncpg.connect(stores.dsn)
    await admin.execute("CREATE DATABASE busy")
    dsn = stores.dsn.replace("/sekisho?", "/busy?")
    await migrate(dsn)
    reader = await asyncpg.connect(dsn)
    try:
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("SELECT FROM journal")
        with pytest.raises(Exception, match="lock timeout"):
            await migrate(dsn, "base")
        await transaction.rollback()
        assert await reader.fetchval("SELECT count(*) FROM journal") == 0
    finally:
        await reader.close()
        await admin.execute("DROP DATABASE busy WITH (FORCE)")
        await admin.close()
