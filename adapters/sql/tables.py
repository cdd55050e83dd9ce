"""The tables (interfaces.md section 8). Alembic makes them; a test compares both.

No foreign keys between results: events may arrive in any order. Every result row carries its
`event_id`. Times are aware UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

metadata = MetaData()


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite, which has no zones, holds it without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn into UTC, and drop the zone where the database knows none."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Put the zone back."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _where(condition: str) -> dict[str, Any]:
    """Return what makes an index one of some rows alone."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def _id(name: str = "event_id", **kwargs: Any) -> Column[str]:
    return Column(name, String(36), **kwargs)


def _text(name: str, **kwargs: Any) -> Column[str]:
    return Column(name, Text, **kwargs)


def _time(name: str, **kwargs: Any) -> Column[datetime]:
    return Column(name, UtcTime, **kwargs)


# SQLite numbers rows by itself only for a plain INTEGER key.
_ROW_ID = BigInteger().with_variant(Integer, "sqlite")

# Images that wait for a verdict, in words that each database recognises as its index's own.
_WAITING = "state = 'accepted' AND status = 'pending' AND verdict IS NULL AND "
IS_WAITING = {
    "sqlite": text(_WAITING + "is_quiet = 0"),
    "postgresql": text(_WAITING + "NOT is_quiet"),
}

images = Table(
    "images",
    metadata,
    Column("image_id", String(32), primary_key=True),
    # `storing` until the bytes and the outbox row are safe (producers/ingest), then `accepted`.
    Column("state", String(8), nullable=False),
    _text("product", nullable=False),
    *(_text(name) for name in ("source", "station", "line", "part_id", "lot_id", "view")),
    _text("purpose", nullable=False),
    Column("is_quiet", Boolean, nullable=False, server_default=false()),
    _time("captured_at", nullable=False),
    _time("received_at", nullable=False),
    # Its quarter of an hour (pipeline/counting.py), to group by.
    Column("received_slot", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    _text("label"),
    Column("subject", JSON, nullable=False),
    # Empty while only results of a direct publisher's image have arrived.
    _id("upload_event_id"),
    _time("upload_at"),
    # What follows from all facts (pipeline/image_view.ImageSummary), renewed with each of them.
    Column("status", String(8), nullable=False, server_default="pending"),
    Column("verdict", String(10)),
    _id("embedded_id"),
    _id("scored_id"),
    _id("explained_id"),
    Column("decision", String(4)),
    _text("defect_type"),
    _id("acknowledged_id"),
    _text("acknowledged_by"),
    _time("acknowledged_at"),
    Column("is_open_alarm", Boolean, nullable=False, server_default=false()),
    Index("images_by_time", "received_at", "image_id"),
    Index("images_by_product", "product", "received_at", "image_id"),
    Index("images_by_verdict", "verdict", "received_at", "image_id"),
    Index("images_by_status", "status", "received_at", "image_id"),
    Index("images_by_lot", "lot_id", "received_at", "image_id"),
    Index("images_by_source", "source", "is_quiet", "received_at"),
    # Holds all that `GET /v1/stats` reads, so that counting never touches the rows.
    Index(
        "images_counted", "received_at", "received_slot", "state", "product", "verdict", "lot_id"
    ),
    Index(
        "images_open_alarms",
        "product",
        "received_at",
        sqlite_where=text("is_open_alarm = 1"),
        postgresql_where=text("is_open_alarm"),
    ),
    Index(
        "images_waiting",
        # Always the same, yet named: without them SQLite prefers wider indexes.
        "status",
        "verdict",
        "received_at",
        sqlite_where=IS_WAITING["sqlite"],
        postgresql_where=IS_WAITING["postgresql"],
    ),
    Index(
        "images_storing",
        "received_at",
        **_where("state = 'storing'"),
    ),
)

# Results, skips and requests: what `judge_image` needs is in columns, the rest in the payload.
inspections = Table(
    "inspections",
    metadata,
    _id(primary_key=True),
    Column("image_id", String(32), nullable=False),
    Column("type", String(40), nullable=False),
    Column("stage", String(40), nullable=False),
    _time("occurred_at", nullable=False),
    _id("trigger_event_id"),
    _id("origin_event_id"),
    _time("origin_at"),
    Column("verdict", String(10)),
    Column("score", Float),
    _text("bank_version"),
    Column("explain", Boolean, nullable=False, server_default=false()),
    Column("payload", JSON, nullable=False),
    Index("inspections_by_image", "image_id"),
)

reviews = Table(
    "reviews",
    metadata,
    _id(primary_key=True),
    Column("image_id", String(32), nullable=False),
    _text("product", nullable=False),
    _time("occurred_at", nullable=False),
    _text("reviewer", nullable=False),
    Column("decision", String(4)),
    _text("defect_type"),
    _text("reason"),
    Column("machine_verdict", String(10)),
    _id("undoes"),
    _id("acknowledges"),
    Column("payload", JSON, nullable=False),
    Index("reviews_by_image", "image_id"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    _id(primary_key=True),
    Column("image_id", String(32)),
    Column("stage", String(40), nullable=False),
    _time("occurred_at", nullable=False),
    _text("reason", nullable=False),
    _text("error_text", nullable=False),
    _text("topic", nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    _id("origin_event_id"),
    _time("origin_at", nullable=False),
    _text("product"),
    # Id of the event that settles it (pipeline/letters.answer_of); empty where nobody can tell.
    _id("answer_id"),
    # The letter whose replay came back as this one, and the one that this one came back as.
    _id("replay_of"),
    _id("returned_as"),
    # When a replay put the record back last.
    _time("replayed_at"),
    _id("resolved_by"),
    _time("resolved_at"),
    Column("payload", JSON, nullable=False),
    Index("dead_letters_by_image", "image_id"),
    Index("dead_letters_by_time", "occurred_at"),
    Index("dead_letters_by_answer", "answer_id"),
    Index("dead_letters_by_former", "replay_of"),
    Index("dead_letters_by_place", "topic", "partition", "offset"),
)

# Who put dead letters back, when and which; one row a replay, for ever.
dead_letter_replays = Table(
    "dead_letter_replays",
    metadata,
    _id("replay_id", primary_key=True),
    Column("state", String(8), nullable=False),
    _time("requested_at", nullable=False),
    _text("requested_by", nullable=False),
    _text("reason"),
    Column("chosen", JSON, nullable=False),
    Column("again", Boolean, nullable=False, server_default=false()),
    Column("rate_per_s", Float, nullable=False),
    Column("letters", Integer, nullable=False),
    _time("finished_at"),
    # Every stop and resume: [{"action", "by", "at"}].
    Column("steered", JSON, nullable=False),
    Index("dead_letter_replays_by_time", "requested_at"),
)

# The letters of each replay, fixed when it was asked for, oldest first.
dead_letter_replay_items = Table(
    "dead_letter_replay_items",
    metadata,
    _id("replay_id", primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    _id("letter_id", nullable=False),
    # Set in the transaction that writes the outbox row; the row's id is `outbox_id`.
    _time("put_back_at"),
    _id("outbox_id"),
    # Why it was passed over instead.
    _text("passed_over"),
    Index("dead_letter_replay_items_by_letter", "letter_id"),
    Index(
        "dead_letter_replay_items_due",
        "replay_id",
        "place",
        **_where("put_back_at IS NULL AND passed_over IS NULL"),
    ),
)

# Texts of reports, one row a report: what was answered, by which model, refused or not.
response_history = Table(
    "response_history",
    metadata,
    _id(primary_key=True),
    Column("image_id", String(32), nullable=False),
    _text("product", nullable=False),
    _time("occurred_at", nullable=False),
    _text("model", nullable=False),
    _text("prompt_version", nullable=False),
    Column("kind", String(12), nullable=False),
    Column("language", String(2), nullable=False),
    Column("refused", Boolean, nullable=False),
    Index("response_history_by_time", "occurred_at"),
)

search_history = Table(
    "search_history",
    metadata,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    _time("searched_at", nullable=False),
    _text("product"),
    _text("image_id"),
    Column("hits", Integer),
    Column("entry", JSON, nullable=False),
    Index("search_history_by_time", "searched_at"),
)


def _state_columns() -> tuple[Column[Any], ...]:
    """Columns of every table that mirrors a compacted topic."""
    return (
        _text("product", nullable=False),
        _id(nullable=False),
        _time("occurred_at", nullable=False),
        Column("removed", Boolean, nullable=False),
        Column("payload", JSON, nullable=False),
    )


products = Table(
    "products",
    metadata,
    _text("product", primary_key=True),
    *_state_columns()[1:],
    Column("revision", Integer, nullable=False),
    _text("active_bank"),
)

# Every revision of every product, for ever.
model_parameters = Table(
    "model_parameters",
    metadata,
    _id(primary_key=True),
    _text("product", nullable=False),
    Column("revision", Integer, nullable=False),
    _time("occurred_at", nullable=False),
    _text("active_bank"),
    Column("threshold", Float),
    Column("payload", JSON, nullable=False),
    Index("model_parameters_by_product", "product", "revision"),
)

# When which bank began to judge.
deployment_logs = Table(
    "deployment_logs",
    metadata,
    _id(primary_key=True),
    _text("product", nullable=False),
    _text("bank_version", nullable=False),
    Column("revision", Integer, nullable=False),
    _time("deployed_at", nullable=False),
    Index("deployment_logs_by_product", "product", "deployed_at"),
)

banks = Table(
    "banks",
    metadata,
    _text("product", primary_key=True),
    _text("version", primary_key=True),
    *_state_columns()[1:],
    Index("banks_by_event", "event_id"),
)

cases = Table(
    "cases",
    metadata,
    _text("case_id", primary_key=True),
    *_state_columns(),
    _text("defect_type"),
    Column("decision", String(4), nullable=False),
    Column("sha256", String(64), nullable=False),
    Index("cases_by_product", "product", "occurred_at"),
    Index("cases_by_event", "event_id"),
)

manuals = Table(
    "manuals",
    metadata,
    _text("manual_id", primary_key=True),
    *_state_columns(),
    _text("title", nullable=False),
    Column("sha256", String(64), nullable=False),
    Index("manuals_by_product", "product", "occurred_at"),
    Index("manuals_by_event", "event_id"),
)

defect_types = Table(
    "defect_types",
    metadata,
    _text("product", primary_key=True),
    _text("code", primary_key=True),
    _text("name_ko", nullable=False),
    _text("name_en", nullable=False),
    _time("created_at", nullable=False),
    Index("defect_types_ko", "product", "name_ko", unique=True),
    Index("defect_types_en", "product", "name_en", unique=True),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _ROW_ID, primary_key=True, autoincrement=True),
    _id(nullable=False, unique=True),
    _text("topic", nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", JSON, nullable=False),
    _time("created_at", nullable=False),
    _time("published_at"),
    Column("partition", Integer),
    Column("offset", BigInteger),
    # Why it can never be published, if so; `published_at` stays empty then.
    _text("refused"),
    Index("outbox_pending", "id", **_where("published_at IS NULL AND refused IS NULL")),
    Index("outbox_refused", "id", **_where("refused IS NOT NULL")),
)
