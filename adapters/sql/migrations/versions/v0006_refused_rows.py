"""Why a row of the outbox can never be published; such rows wait no more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import text

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column, make the index of what waits anew, and one of what does not."""
    op.add_column("outbox", sa.Column("refused", sa.Text(), nullable=True))
    op.drop_index("outbox_pending", "outbox")
    _index("outbox_pending", "published_at IS NULL AND refused IS NULL")
    _index("outbox_refused", "refused IS NOT NULL")


def downgrade() -> None:
    """Drop it, and make the index as it was."""
    op.drop_index("outbox_refused", "outbox")
    op.drop_index("outbox_pending", "outbox")
    op.drop_column("outbox", "refused")
    _index("outbox_pending", "published_at IS NULL")


def _index(name: str, where: str) -> None:
    op.create_index(
        name,
        "outbox",
        ["id"],
        unique=False,
        sqlite_where=text(where),
        postgresql_where=text(where),
    )
