"""An index by source, which tells when each camera sent its last images."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the index."""
    op.create_index("images_by_source", "images", ["source", "received_at"], unique=False)


def downgrade() -> None:
    """Drop it."""
    op.drop_index("images_by_source", "images")
