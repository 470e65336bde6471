"""Run by Alembic: migrate over the connection that `migrations.upgrade` opened."""

from __future__ import annotations

from alembic import context

from carepos_ledger import schema

context.configure(
    connection=context.config.attributes["connection"], target_metadata=schema.metadata
)
with context.begin_transaction():
    context.run_migrations()
