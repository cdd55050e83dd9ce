"""Run by Alembic: upgrades the connection that `migrate` opened, within its transaction."""

from __future__ import annotations

from alembic import context

from adapters.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
