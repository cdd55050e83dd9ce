"""Images that wait for a stage, in memory (port `Unanswered`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from adapters.memory.outbox import MemoryLease, MemoryOutbox
from adapters.memory.tables import ImageRow, MemoryTables
from pipeline.image_view import decode_cursor, encode_cursor
from pipeline.owing import Debt, debts_of
from pipeline.reconciling import Waiting
from schemas.event import ImageEvent
from schemas.images import ImageUploaded


class MemoryUnanswered:
    """`Unanswered` over the tables and the outbox beside them."""

    def __init__(self, tables: MemoryTables, outbox: MemoryOutbox) -> None:
        """Only assign."""
        self._tables = tables
        self._outbox = outbox
        self._only = asyncio.Lock()

    async def waiting(
        self, before: datetime, *, cursor: str | None, limit: int
    ) -> tuple[Sequence[Waiting], str | None]:
        """Look at pending images, oldest first (port `Unanswered`)."""
        after = decode_cursor(cursor) if cursor is not None else None
        pending = sorted(
            (row.subject.received_at, image_id)
            for image_id, row in self._tables.images.items()
            if row.state == "accepted"
            and row.summary().status == "pending"
            and row.subject.received_at < before
        )
        page = [place for place in pending if after is None or place > after][:limit]
        unsent = self._outbox.unsent()
        debts = [
            debt
            for _, image_id in page
            for debt in _debts(image_id, self._tables.images[image_id])
            if str(debt.event.event_id) not in unsent
        ]
        return debts, encode_cursor(*page[-1]) if len(page) == limit else None

    @asynccontextmanager
    async def reconcile_lease(self) -> AsyncIterator[MemoryLease]:
        """Wait to be the only reconciler."""
        async with self._only:
            yield MemoryLease()


def _debts(image_id: str, row: ImageRow) -> Iterator[Waiting]:
    for debt in debts_of(image_id, row.facts()):
        event = _upload(row, debt) if debt.is_upload else row.events.get(debt.event_id)
        if isinstance(event, ImageEvent):
            yield Waiting(debt.stage, event)


def _upload(row: ImageRow, debt: Debt) -> ImageUploaded:
    if row.upload is not None:
        return row.upload
    return ImageUploaded(event_id=UUID(debt.event_id), occurred_at=debt.at, subject=row.subject)
