"""What is known of images, in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from adapters.memory.tables import ImageRow, MemoryTables, as_json
from pipeline.counting import LotRow, SlotRow, count, count_lots, count_times, midnight, slot_of
from pipeline.image_view import decode_cursor, encode_cursor, image_view, item_view
from pipeline.ports import ImageFilter
from schemas.event import Event
from schemas.subject import rfc3339_ms


class MemoryInspections:
    """`Inspections` over `MemoryTables`."""

    def __init__(self, tables: MemoryTables, *, timezone: str = "Asia/Seoul") -> None:
        """`timezone` is the site's: it says when a day begins."""
        self._tables = tables
        self._zone = ZoneInfo(timezone)

    async def save(self, events: Sequence[Event]) -> Sequence[bool]:
        """Write events in any order; the first of an id wins."""
        return [self._tables.write(event) for event in events]

    async def get(self, image_id: str) -> dict[str, Any] | None:
        """Return one image as `GET /v1/images/{image_id}` shows it, None if unknown."""
        row = self._tables.images.get(image_id)
        if row is None or row.state != "accepted":
            return None
        return image_view(as_json(row.subject), row.facts(), row.kept())

    async def list(
        self, image_filter: ImageFilter, *, cursor: str | None, limit: int
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        """Return a page, newest first, and the cursor of the next one."""
        rows = [row for row in self._tables.accepted() if _matches(row, image_filter)]
        rows.sort(key=_place, reverse=True)
        if cursor is not None:
            behind = decode_cursor(cursor)
            rows = [row for row in rows if _place(row) < behind]
        page = rows[:limit]
        more = encode_cursor(*_place(page[-1])) if len(rows) > limit else None
        return [_item(row) for row in page], more

    async def stats(
        self, *, product: str | None, since: datetime | None, bucket: str | None
    ) -> dict[str, Any]:
        """Count by verdict, per lot and per `bucket` of time (`hour`, `day`)."""
        mine = [r for r in self._tables.accepted() if product in {None, r.subject.product}]
        rows = [row for row in mine if since is None or row.subject.received_at >= since]
        begin = midnight(datetime.now(UTC), self._zone)
        slots = [SlotRow(slot_of(r.subject.received_at), r.summary().verdict, 1) for r in rows]
        return {
            "product": product,
            "since": None if since is None else rfc3339_ms(since),
            "bucket": bucket,
            "all": _count(rows),
            "today": _count([row for row in mine if row.subject.received_at >= begin]),
            "unacknowledged": sum(row.summary().is_open_alarm for row in mine),
            "by_lot": count_lots(
                LotRow(r.subject.lot_id, r.summary().verdict, 1, r.subject.received_at)
                for r in rows
            ),
            "by_time": count_times(slots, bucket, self._zone) if bucket else [],
        }

    async def current(self, image_id: str, stage: str) -> Event | None:
        """Return the current result of a stage for an image, None if there is none."""
        row = self._tables.images.get(image_id)
        if row is None:
            return None
        summary = row.summary()
        by_stage = {
            "embed": summary.embedded_id,
            "anomaly": summary.scored_id,
            "llm": summary.explained_id,
        }
        return row.events.get(by_stage[stage] or "")


def _place(row: ImageRow) -> tuple[datetime, str]:
    return row.subject.received_at, row.subject.image_id


def _count(rows: Collection[ImageRow]) -> dict[str, int]:
    return count((row.summary().verdict, 1) for row in rows)


def _matches(row: ImageRow, wanted: ImageFilter) -> bool:
    summary, subject = row.summary(), row.subject
    pairs = (
        (wanted.product, subject.product),
        (wanted.verdict, summary.verdict),
        (wanted.status, summary.status),
        (wanted.source, subject.source),
        (wanted.lot_id, subject.lot_id),
    )
    return (
        all(want is None or want == is_ for want, is_ in pairs)
        and (wanted.since is None or subject.received_at >= wanted.since)
        and (wanted.until is None or subject.received_at < wanted.until)
        and (not wanted.unacknowledged or summary.is_open_alarm)
    )


def _item(row: ImageRow) -> dict[str, Any]:
    summary = row.summary()
    scored = row.events.get(summary.scored_id or "")
    return item_view(as_json(row.subject), summary, None if scored is None else as_json(scored))
