"""An index of the images that wait for a verdict, so that a backlog is told without reading it."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0005"
down_revision = "0004"

_WAITING = "state = 'accepted' AND status = 'pending' AND verdict IS NULL AND "


def upgrade() -> None:
    """Add the index."""
    op.create_index(
        "images_waiting",
        "images",
        ["status", "verdict", "received_at"],
        unique=False,
        sqlite_where=text(_WAITING + "is_quiet = 0"),
        postgresql_where=text(_WAITING + "NOT is_quiet"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_index("images_waiting", "images")
