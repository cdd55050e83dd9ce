"""Indexes by which the answer of a dead letter is found among banks, cases and manuals."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"

_TABLES = ("banks", "cases", "manuals")


def upgrade() -> None:
    """Add them."""
    for table in _TABLES:
        op.create_index(f"{table}_by_event", table, ["event_id"], unique=False)


def downgrade() -> None:
    """Drop them."""
    for table in _TABLES:
        op.drop_index(f"{table}_by_event", table)
