"""Images that wait for a stage, and the events that they wait with (port `Unanswered`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, bindparam, select, tuple_

from adapters.sql.engine import Database
from adapters.sql.leases import hold
from adapters.sql.summaries import OF_IMAGES, read_facts
from adapters.sql.tables import images, inspections, outbox
from pipeline.image_view import decode_cursor, encode_cursor
from pipeline.owing import Debt, debts_of
from pipeline.ports import Lease
from pipeline.reconciling import Waiting
from schemas.anomalies import ImageScored
from schemas.event import ImageEvent
from schemas.images import ImageUploaded, InspectionRequested
from schemas.subject import Subject

_EVENTS: Mapping[str, type[ImageEvent]] = {
    "InspectionRequested": InspectionRequested,
    "ImageScored": ImageScored,
}
_PAGE = (
    select(images.c.subject, images.c.label, images.c.received_at, *OF_IMAGES)
    .where(
        images.c.status == "pending",
        images.c.state == "accepted",
        images.c.received_at < bindparam("before"),
    )
    .order_by(images.c.received_at, images.c.image_id)
    .limit(bindparam("rows"))
)


class _Found(NamedTuple):
    image: Row[Any]
    debt: Debt


class SqlUnanswered:
    """`Unanswered` on SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        """Only assign."""
        self._database = database

    async def waiting(
        self, before: datetime, *, cursor: str | None, limit: int
    ) -> tuple[Sequence[Waiting], str | None]:
        """Look at pending images, oldest first (port `Unanswered`)."""
        page = _PAGE
        if cursor is not None:
            received_at, image_id = decode_cursor(cursor)
            after = tuple_(
                bindparam("cursor_time", received_at, type_=images.c.received_at.type),
                bindparam("cursor_id", image_id),
            )
            page = page.where(tuple_(images.c.received_at, images.c.image_id) > after)

        def work(connection: Connection) -> tuple[Sequence[Waiting], str | None]:
            rows = connection.execute(page, {"before": before, "rows": limit}).all()
            last = rows[-1] if len(rows) == limit else None
            following = encode_cursor(last.received_at, last.image_id) if last else None
            return list(_debts(connection, rows)), following

        return await self._database.read(work)

    def reconcile_lease(self) -> AbstractAsyncContextManager[Lease]:
        """Wait to be the only reconciler (port `Unanswered`)."""
        return hold(self._database, "reconcile")


def _debts(connection: Connection, rows: Sequence[Row[Any]]) -> Iterator[Waiting]:
    facts = read_facts(connection, rows)
    found = [
        _Found(row, debt) for row in rows for debt in debts_of(row.image_id, facts[row.image_id])
    ]
    ids = {one.debt.event_id for one in found}
    unsent = _unsent(connection, ids)
    kept = _kept(connection, ids)
    for image, debt in found:
        if debt.event_id in unsent:
            continue
        event = kept.get(debt.event_id) if not debt.is_upload else _upload(image, debt)
        if event is not None:
            yield Waiting(debt.stage, event)


def _unsent(connection: Connection, event_ids: Collection[str]) -> set[str]:
    # Those that can never be published as well: to try once more would be in vain.
    waits = select(outbox.c.event_id).where(
        outbox.c.event_id.in_(event_ids), outbox.c.published_at.is_(None)
    )
    return set(connection.scalars(waits)) if event_ids else set()


def _kept(connection: Connection, event_ids: Collection[str]) -> dict[str, ImageEvent]:
    columns = (inspections.c.event_id, inspections.c.type, inspections.c.payload)
    found = select(*columns).where(inspections.c.event_id.in_(event_ids))
    rows = connection.execute(found).all() if event_ids else ()
    return {
        row.event_id: _EVENTS[row.type].model_validate(row.payload)
        for row in rows
        if row.type in _EVENTS
    }


def _upload(image: Row[Any], debt: Debt) -> ImageUploaded:
    return ImageUploaded(
        event_id=UUID(debt.event_id),
        occurred_at=debt.at,
        subject=Subject.model_validate(image.subject),
        label=image.label,
    )
