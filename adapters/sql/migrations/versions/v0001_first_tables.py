"""The first tables: images, results, configuration and the outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table of the first version."""
    _create_images()
    _create_results()
    _create_configuration()
    _create_outbox()


def downgrade() -> None:
    """Drop them all."""
    for table in (
        "outbox", "defect_types", "manuals", "cases", "banks", "deployment_logs",
        "model_parameters", "products", "search_history", "response_history", "dead_letters",
        "reviews", "inspections", "images",
    ):  # fmt: skip
        op.drop_table(table)


def _create_images() -> None:
    op.create_table(
        "images",
        sa.Column("image_id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("station", sa.Text(), nullable=True),
        sa.Column("line", sa.Text(), nullable=True),
        sa.Column("part_id", sa.Text(), nullable=True),
        sa.Column("lot_id", sa.Text(), nullable=True),
        sa.Column("view", sa.Text(), nullable=True),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("is_quiet", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("captured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_slot", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("subject", sa.JSON(), nullable=False),
        sa.Column("upload_event_id", sa.String(length=36), nullable=True),
        sa.Column("upload_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.String(length=8), server_default="pending", nullable=False),
        sa.Column("verdict", sa.String(length=10), nullable=True),
        sa.Column("embedded_id", sa.String(length=36), nullable=True),
        sa.Column("scored_id", sa.String(length=36), nullable=True),
        sa.Column("explained_id", sa.String(length=36), nullable=True),
        sa.Column("decision", sa.String(length=4), nullable=True),
        sa.Column("defect_type", sa.Text(), nullable=True),
        sa.Column("acknowledged_id", sa.String(length=36), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_open_alarm", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("image_id"),
    )
    op.create_index("images_by_lot", "images", ["lot_id", "received_at", "image_id"], unique=False)
    op.create_index(
        "images_by_product", "images", ["product", "received_at", "image_id"], unique=False
    )
    op.create_index(
        "images_by_status", "images", ["status", "received_at", "image_id"], unique=False
    )
    op.create_index("images_by_time", "images", ["received_at", "image_id"], unique=False)
    op.create_index(
        "images_by_verdict", "images", ["verdict", "received_at", "image_id"], unique=False
    )
    op.create_index(
        "images_counted",
        "images",
        ["received_at", "received_slot", "state", "product", "verdict", "lot_id"],
        unique=False,
    )
    op.create_index(
        "images_open_alarms",
        "images",
        ["product", "received_at"],
        unique=False,
        sqlite_where=sa.text("is_open_alarm = 1"),
        postgresql_where=sa.text("is_open_alarm"),
    )
    op.create_index(
        "images_storing",
        "images",
        ["received_at"],
        unique=False,
        sqlite_where=sa.text("state = 'storing'"),
        postgresql_where=sa.text("state = 'storing'"),
    )


def _create_results() -> None:
    op.create_table(
        "inspections",
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("image_id", sa.String(length=32), nullable=False),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("stage", sa.String(length=40), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("trigger_event_id", sa.String(length=36), nullable=True),
        sa.Column("origin_event_id", sa.String(length=36), nullable=True),
        sa.Column("origin_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verdict", sa.String(length=10), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("bank_version", sa.Text(), nullable=True),
        sa.Column("explain", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index("inspections_by_image", "inspections", ["image_id"], unique=False)
    op.create_table(
        "reviews",
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("image_id", sa.String(length=32), nullable=False),
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("decision", sa.String(length=4), nullable=True),
        sa.Column("defect_type", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("machine_verdict", sa.String(length=10), nullable=True),
        sa.Column("undoes", sa.String(length=36), nullable=True),
        sa.Column("acknowledges", sa.String(length=36), nullable=True),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index("reviews_by_image", "reviews", ["image_id"], unique=False)
    op.create_table(
        "dead_letters",
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("image_id", sa.String(length=32), nullable=True),
        sa.Column("stage", sa.String(length=40), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("error_text", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("origin_event_id", sa.String(length=36), nullable=True),
        sa.Column("origin_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index("dead_letters_by_image", "dead_letters", ["image_id"], unique=False)
    op.create_index("dead_letters_by_time", "dead_letters", ["occurred_at"], unique=False)
    op.create_table(
        "response_history",
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("image_id", sa.String(length=32), nullable=False),
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_version", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("language", sa.String(length=2), nullable=False),
        sa.Column("refused", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index("response_history_by_time", "response_history", ["occurred_at"], unique=False)
    op.create_table(
        "search_history",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("searched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("product", sa.Text(), nullable=True),
        sa.Column("image_id", sa.Text(), nullable=True),
        sa.Column("hits", sa.Integer(), nullable=True),
        sa.Column("entry", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("search_history_by_time", "search_history", ["searched_at"], unique=False)


def _create_configuration() -> None:
    op.create_table(
        "products",
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("active_bank", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("product"),
    )
    op.create_table(
        "model_parameters",
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("active_bank", sa.Text(), nullable=True),
        sa.Column("threshold", sa.Float(), nullable=True),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index(
        "model_parameters_by_product", "model_parameters", ["product", "revision"], unique=False
    )
    op.create_table(
        "deployment_logs",
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("bank_version", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("deployed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index(
        "deployment_logs_by_product", "deployment_logs", ["product", "deployed_at"], unique=False
    )
    op.create_table(
        "banks",
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("product", "version"),
    )
    op.create_table(
        "cases",
        sa.Column("case_id", sa.Text(), nullable=False),
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("defect_type", sa.Text(), nullable=True),
        sa.Column("decision", sa.String(length=4), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("case_id"),
    )
    op.create_index("cases_by_product", "cases", ["product", "occurred_at"], unique=False)
    op.create_table(
        "manuals",
        sa.Column("manual_id", sa.Text(), nullable=False),
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("manual_id"),
    )
    op.create_index("manuals_by_product", "manuals", ["product", "occurred_at"], unique=False)
    op.create_table(
        "defect_types",
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("name_ko", sa.Text(), nullable=False),
        sa.Column("name_en", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("product", "code"),
    )
    op.create_index("defect_types_en", "defect_types", ["product", "name_en"], unique=True)
    op.create_index("defect_types_ko", "defect_types", ["product", "name_ko"], unique=True)


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("partition", sa.Integer(), nullable=True),
        sa.Column("offset", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("event_id"),
    )
    op.create_index(
        "outbox_pending",
        "outbox",
        ["id"],
        unique=False,
        sqlite_where=sa.text("published_at IS NULL"),
        postgresql_where=sa.text("published_at IS NULL"),
    )
