"""Alembic environment: runs the history over an asyncpg connection handed in by `gateway.migrations.run`."""

from alembic import context
from sqlalchemy import Connection

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
