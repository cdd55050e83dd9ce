"""What is known of images, in the tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Connection, Row, bindparam, select, tuple_

from adapters.sql.engine import Database
from adapters.sql.stats import count_images
from adapters.sql.summaries import OF_IMAGES, read_events, read_facts, summary_of
from adapters.sql.tables import images, inspections
from adapters.sql.writing import write_events
from pipeline.image_view import ImageSummary, decode_cursor, encode_cursor, image_view, item_view
from pipeline.ports import ImageFilter
from schemas.anomalies import ImageScored
from schemas.embeddings import ImageEmbedded
from schemas.event import Event
from schemas.reports import ImageExplained

# Rows of one transaction: short enough that the web role's writes never wait long on SQLite.
_BATCH = 200
_STAGE_COLUMN = {
    "embed": images.c.embedded_id,
    "anomaly": images.c.scored_id,
    "llm": images.c.explained_id,
}
_EVENT_OF: dict[str, type[Event]] = {
    "ImageEmbedded": ImageEmbedded,
    "ImageScored": ImageScored,
    "ImageExplained": ImageExplained,
}
_ONE = select(images.c.subject, *OF_IMAGES).where(
    images.c.image_id == bindparam("image_id"), images.c.state == "accepted"
)


class SqlInspections:
    """`Inspections` on SQLite or PostgreSQL."""

    def __init__(self, database: Database, *, timezone: str = "Asia/Seoul") -> None:
        """`timezone` is the site's: it says when a day begins."""
        self._database = database
        self._zone = ZoneInfo(timezone)

    async def save(self, events: Sequence[Event]) -> Sequence[bool]:
        """Write events in any order; the first of an id wins (port `Inspections`)."""
        is_new: list[bool] = []
        for start in range(0, len(events), _BATCH):
            is_new += await self._save(events[start : start + _BATCH])
        return is_new

    async def _save(self, events: Sequence[Event]) -> Sequence[bool]:
        dialect = self._database.dialect
        return await self._database.write(
            lambda connection: write_events(connection, dialect, events)
        )

    async def get(self, image_id: str) -> dict[str, Any] | None:
        """Return one image as `GET /v1/images/{image_id}` shows it, None if unknown."""

        def work(connection: Connection) -> dict[str, Any] | None:
            row = connection.execute(_ONE, {"image_id": image_id}).one_or_none()
            if row is None:
                return None
            facts = read_facts(connection, [row])[image_id]
            return image_view(row.subject, facts, read_events(connection, image_id))

        return await self._database.read(work)

    async def list(
        self, image_filter: ImageFilter, *, cursor: str | None, limit: int
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        """Return a page, newest first, and the cursor of the next one."""
        conditions = _conditions(image_filter)
        if cursor is not None:
            conditions.append(
                tuple_(images.c.received_at, images.c.image_id)
                < tuple_(*_bound_cursor(*decode_cursor(cursor)))
            )
        page = (
            select(images.c.subject, images.c.received_at, *OF_IMAGES)
            .where(*conditions)
            .order_by(images.c.received_at.desc(), images.c.image_id.desc())
            .limit(limit + 1)
        )

        def work(connection: Connection) -> tuple[Sequence[Row[Any]], dict[str, Any]]:
            rows = connection.execute(page).all()[: limit + 1]
            return rows, _payloads(connection, [row.scored_id for row in rows[:limit]])

        rows, scored = await self._database.read(work)
        items = [_item(row, summary_of(row), scored) for row in rows[:limit]]
        more = len(rows) > limit
        last = rows[limit - 1] if more else None
        return items, encode_cursor(last.received_at, last.image_id) if last else None

    async def stats(
        self, *, product: str | None, since: datetime | None, bucket: str | None
    ) -> dict[str, Any]:
        """Count by verdict, per lot and per `bucket` of time (`hour`, `day`)."""
        zone = self._zone
        return await self._database.read(
            lambda connection: count_images(
                connection, product=product, since=since, bucket=bucket, zone=zone
            )
        )

    async def current(self, image_id: str, stage: str) -> Event | None:
        """Return the current result of a stage for an image, None if there is none."""
        column = _STAGE_COLUMN[stage]
        found = (
            select(inspections.c.type, inspections.c.payload)
            .join(images, column == inspections.c.event_id)
            .where(images.c.image_id == image_id)
        )
        row = await self._database.read(lambda connection: connection.execute(found).one_or_none())
        return None if row is None else _EVENT_OF[row.type].model_validate(row.payload)


def _bound_cursor(received_at: datetime, image_id: str) -> tuple[Any, Any]:
    return (
        bindparam("cursor_time", received_at, type_=images.c.received_at.type),
        bindparam("cursor_id", image_id),
    )


def _conditions(wanted: ImageFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [images.c.state == "accepted"]
    for name in ("product", "verdict", "status", "source", "lot_id"):
        value = getattr(wanted, name)
        if value is not None:
            conditions.append(images.c[name] == value)
    if wanted.since is not None:
        conditions.append(images.c.received_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(images.c.received_at < wanted.until)
    if wanted.unacknowledged:
        conditions.append(images.c.is_open_alarm)
    return conditions


def _payloads(connection: Connection, event_ids: Sequence[str | None]) -> dict[str, Any]:
    wanted = [event_id for event_id in event_ids if event_id is not None]
    if not wanted:
        return {}
    columns = (inspections.c.event_id, inspections.c.payload)
    found = connection.execute(select(*columns).where(inspections.c.event_id.in_(wanted)))
    return {row.event_id: row.payload for row in found}


def _item(row: Row[Any], summary: ImageSummary, scored: dict[str, Any]) -> dict[str, Any]:
    return item_view(row.subject, summary, scored.get(summary.scored_id or ""))
