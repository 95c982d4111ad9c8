"""Moves the schema to a revision. Locks are waited for briefly: a migration that would queue behind traffic fails
instead of stopping it, and is run again."""

from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

LOCK_TIMEOUT_MS = 3_000
STATEMENT_TIMEOUT_MS = 60_000
_ADVISORY_LOCK = 0x5E_C1_50  # two migrators at once would race for the same history


async def migrate(dsn: str, revision: str = "head") -> None:
    """Upgrade (or, for a revision below the present one, downgrade) the database at `dsn`.

    Raises `asyncpg.PostgresError` or `sqlalchemy.exc.DBAPIError` when a lock is not had in time.
    """

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(dsn)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
            await connection.execute(text(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}"))
            await connection.execute(text(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})"))
            await connection.commit()
            await connection.run_sync(_run, revision)
            await connection.commit()
    finally:
        await engine.dispose()


def _run(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    if revision == "base" or revision.startswith("-"):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)
