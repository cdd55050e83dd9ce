"""What became of a dead letter, and the replays that put letters back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# As the events' ids were derived when this version was made.
_NAMESPACE = UUID("6f7c1b0e-6a52-5d7e-9d5b-6c1f5b1f0a11")
_PAGE = sa.text(
    "SELECT event_id, stage, payload FROM dead_letters "
    "WHERE event_id > :last ORDER BY event_id LIMIT 100"
)
_TEXTS = ("product",)
_IDS = ("answer_id", "replay_of", "returned_as", "resolved_by")
_TIMES = ("replayed_at", "resolved_at")
_INDEXES = {
    "dead_letters_by_answer": ["answer_id"],
    "dead_letters_by_former": ["replay_of"],
    "dead_letters_by_place": ["topic", "partition", "offset"],
}


def upgrade() -> None:
    """Add the columns, fill what follows from the letters, and create the tables of replays."""
    for name in _TEXTS:
        op.add_column("dead_letters", sa.Column(name, sa.Text(), nullable=True))
    for name in _IDS:
        op.add_column("dead_letters", sa.Column(name, sa.String(length=36), nullable=True))
    for name in _TIMES:
        column = sa.Column(name, sa.DateTime(timezone=True), nullable=True)
        op.add_column("dead_letters", column)
    _fill()
    for name, columns in _INDEXES.items():
        op.create_index(name, "dead_letters", columns, unique=False)
    _create_replays()


def downgrade() -> None:
    """Drop them."""
    op.drop_table("dead_letter_replay_items")
    op.drop_table("dead_letter_replays")
    for name in _INDEXES:
        op.drop_index(name, "dead_letters")
    for name in (*_TEXTS, *_IDS, *_TIMES):
        op.drop_column("dead_letters", name)


def _fill() -> None:
    """Page by page: a letter may be a megabyte, and there may be a hundred thousand."""
    connection = op.get_bind()
    last = ""
    while page := connection.execute(_PAGE, {"last": last}).all():
        _fill_page(connection, page)
        last = page[-1].event_id


def _fill_page(connection: sa.Connection, page: Sequence[Any]) -> None:
    for event_id, stage, payload in page:
        letter: dict[str, Any] = json.loads(payload) if isinstance(payload, str) else payload
        trigger = letter.get("trigger_event_id")
        answer = trigger
        if trigger and stage != "record":
            answer = str(uuid5(_NAMESPACE, f"{stage}:{trigger}"))
        product = (letter.get("subject") or {}).get("product")
        connection.execute(
            sa.text("UPDATE dead_letters SET answer_id = :a, product = :p WHERE event_id = :e"),
            {"a": answer, "p": product, "e": event_id},
        )


def _create_replays() -> None:
    op.create_table(
        "dead_letter_replays",
        sa.Column("replay_id", sa.String(length=36), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("chosen", sa.JSON(), nullable=False),
        sa.Column("again", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("rate_per_s", sa.Float(), nullable=False),
        sa.Column("letters", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("steered", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("replay_id"),
    )
    op.create_index(
        "dead_letter_replays_by_time", "dead_letter_replays", ["requested_at"], unique=False
    )
    op.create_table(
        "dead_letter_replay_items",
        sa.Column("replay_id", sa.String(length=36), nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("letter_id", sa.String(length=36), nullable=False),
        sa.Column("put_back_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outbox_id", sa.String(length=36), nullable=True),
        sa.Column("passed_over", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("replay_id", "place"),
    )
    op.create_index(
        "dead_letter_replay_items_by_letter",
        "dead_letter_replay_items",
        ["letter_id"],
        unique=False,
    )
    is_due = sa.text("put_back_at IS NULL AND passed_over IS NULL")
    op.create_index(
        "dead_letter_replay_items_due",
        "dead_letter_replay_items",
        ["replay_id", "place"],
        unique=False,
        sqlite_where=is_due,
        postgresql_where=is_due,
    )
