"""The index by source passes over quiet images: a long import hides no camera behind it."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the index anew with the column that tells."""
    op.drop_index("images_by_source", "images")
    op.create_index(
        "images_by_source", "images", ["source", "is_quiet", "received_at"], unique=False
    )


def downgrade() -> None:
    """Make it as it was."""
    op.drop_index("images_by_source", "images")
    op.create_index("images_by_source", "images", ["source", "received_at"], unique=False)
