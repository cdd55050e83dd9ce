"""Counting images by verdict, lot and time, from the tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Connection, func, select

from adapters.sql.tables import images
from pipeline.counting import LotRow, SlotRow, count, count_lots, count_times, midnight
from schemas.subject import rfc3339_ms

Conditions = Sequence[ColumnElement[bool]]


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
    return {
        "product": product,
        "since": None if since is None else rfc3339_ms(since),
        "bucket": bucket,
        "all": count(_by_verdict(connection, wanted)),
        "today": count(_by_verdict(connection, today)),
        "unacknowledged": connection.scalar(open_alarms),
        "by_lot": count_lots(_by_lot(connection, wanted)),
        "by_time": count_times(_by_slot(connection, wanted), bucket, zone) if bucket else [],
    }


def _by_verdict(connection: Connection, wanted: Conditions) -> list[tuple[str | None, int]]:
    grouped = select(images.c.verdict, func.count()).where(*wanted).group_by(images.c.verdict)
    return [(verdict, number) for verdict, number in connection.execute(grouped)]


def _by_lot(connection: Connection, wanted: Conditions) -> list[LotRow]:
    keys = (images.c.lot_id, images.c.verdict)
    last = func.max(images.c.received_at, type_=images.c.received_at.type)
    grouped = select(*keys, func.count(), last).where(*wanted).group_by(*keys)
    return [LotRow(*row) for row in connection.execute(grouped)]


def _by_slot(connection: Connection, wanted: Conditions) -> list[SlotRow]:
    keys = (images.c.received_slot, images.c.verdict)
    grouped = select(*keys, func.count()).where(*wanted).group_by(*keys)
    return [SlotRow(*row) for row in connection.execute(grouped)]
