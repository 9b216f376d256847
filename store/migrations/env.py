"""Alembic environment: migrates the one MetaData over the connection it is given."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from store.base import Base

connection: Connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    compare_type=True,
    compare_server_default=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
