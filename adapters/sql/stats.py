"""Counting images by verdict, lot and time, from the tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Connection, Row, func, select

from adapters.sql.tables import images
from pipeline.counting import LotRow, SlotRow, count, count_lots, count_times, midnight
from schemas.subject import rfc3339_ms


def count_images(
    connection: Connection,
    *,
    product: str | None,
    since: datetime | None,
    bucket: str | None,
    zone: ZoneInfo,
) -> dict[str, Any]:
    """Return the answer of `GET /v1/stats`; days begin at midnight in `zone`."""
    accepted: list[ColumnElement[bool]] = [images.c.state == "accepted"]
    if product is not None:
        accepted.append(images.c.product == product)
    wanted = [*accepted, images.c.received_at >= since] if since else accepted
    today = [*accepted, images.c.received_at >= midnight(datetime.now(UTC), zone)]
    open_alarms = select(func.count()).where(*accepted, images.c.is_open_alarm)
    rows = _grouped(connection, wanted)
    return {
        "product": product,
        "since": None if since is None else rfc3339_ms(since),
        "bucket": bucket,
        "all": count((row.verdict, row.number) for row in rows),
        "today": count((row.verdict, row.number) for row in _grouped(connection, today)),
        "unacknowledged": connection.scalar(open_alarms),
        "by_lot": count_lots(
            LotRow(row.lot_id, row.verdict, row.number, row.last_received_at) for row in rows
        ),
        "by_time": count_times(
            (SlotRow(row.received_slot, row.verdict, row.number) for row in rows), bucket, zone
        )
        if bucket
        else [],
    }


def _grouped(connection: Connection, wanted: Sequence[ColumnElement[bool]]) -> Sequence[Row[Any]]:
    """Return the images counted as finely as anything needs, in one walk over one index.

    Quarters of an hour lead the grouping, so that the walk is over `images_counted`: 45 ms for
    100,000 images, a third of three walks for three groupings.
    """
    keys = (images.c.received_slot, images.c.lot_id, images.c.verdict)
    last = func.max(images.c.received_at, type_=images.c.received_at.type)
    grouped = select(*keys, func.count().label("number"), last.label("last_received_at"))
    return connection.execute(grouped.where(*wanted).group_by(*keys)).all()
