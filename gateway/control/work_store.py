"""The lock that lets changes through one at a time, over all processes of the admin plane."""

from typing import Any

# Migrations and the worker's leader have locks of their own; the numbers differ.
_WRITE_LOCK = 0x5E_C1_AD


async def hold_write_lock(connection: Any) -> None:
    """Hold it to the end of the transaction. Raises `asyncpg.LockNotAvailableError` when it is not had in time."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _WRITE_LOCK)
