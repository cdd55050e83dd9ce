"""The outbox in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from adapters.memory.tables import ImageRow, MemoryTables
from pipeline.errors import ConflictError
from pipeline.ports import OutboxRow
from schemas.codec import encode
from schemas.configuration import ProductConfigured
from schemas.event import Event
from schemas.images import ImageUploaded
from schemas.message import Position


class MemoryOutbox:
    """`Outbox` over `MemoryTables`; `published` shows where rows went."""

    def __init__(
        self, tables: MemoryTables, *, source: str, on_append: Callable[[], None] | None = None
    ) -> None:
        """As for the SQL outbox."""
        self.published: dict[int, Position] = {}
        self._tables = tables
        self._source = source
        self._on_append = on_append
        self._rows: dict[int, OutboxRow] = {}
        self._event_ids: set[str] = set()
        self._relay = asyncio.Lock()
        self._sweep = asyncio.Lock()

    async def append(self, events: Sequence[Event]) -> Sequence[bool]:
        """Write all or nothing (port `Outbox`)."""
        messages = [encode(event, source=self._source) for event in events]
        self._check_revisions(events)
        is_new: list[bool] = []
        for event, message in zip(events, messages, strict=True):
            is_new.append(str(event.event_id) not in self._event_ids)
            if is_new[-1]:
                self._event_ids.add(str(event.event_id))
                row_id = len(self._rows) + 1
                self._rows[row_id] = OutboxRow(row_id, message)
                self._tables.write(event)
        if self._on_append is not None and any(is_new):
            self._on_append()
        return is_new

    def _check_revisions(self, events: Sequence[Event]) -> None:
        """Refuse the whole append before anything of it is written."""
        revisions = {
            event.product: event.revision
            for event in self._tables.states.values()
            if isinstance(event, ProductConfigured)
        }
        for event in events:
            if isinstance(event, ProductConfigured) and str(event.event_id) not in self._event_ids:
                if event.revision != revisions.get(event.product, 0) + 1:
                    raise ConflictError
                revisions[event.product] = event.revision

    async def reserve(self, event: Event) -> str:
        """Note an upload before its bytes are stored (port `Outbox`)."""
        if not isinstance(event, ImageUploaded):
            raise TypeError(f"only an upload is reserved, not {event.type_name}")
        image_id = event.subject.image_id
        known = self._tables.images.get(image_id)
        if known is not None:
            return known.state
        self._tables.images[image_id] = ImageRow(event.subject, "storing", event)
        return "new"

    async def unfinished(self, before: datetime, limit: int) -> Sequence[ImageUploaded]:
        """Uploads reserved before then whose bytes or outbox row are missing, oldest first."""
        found = [
            row.upload
            for row in self._tables.images.values()
            if row.state == "storing" and row.upload and row.subject.received_at < before
        ]
        return sorted(found, key=lambda event: event.subject.received_at)[:limit]

    async def forget(self, image_id: str) -> None:
        """Drop a reservation whose bytes never came; an accepted image is left alone."""
        row = self._tables.images.get(image_id)
        if row is not None and row.state == "storing":
            del self._tables.images[image_id]

    async def pending(self, limit: int) -> Sequence[OutboxRow]:
        """Return unpublished rows, oldest first."""
        waiting = [row for row_id, row in self._rows.items() if row_id not in self.published]
        return waiting[:limit]

    async def mark_published(self, positions: Mapping[int, Position]) -> None:
        """Note where rows were published."""
        self.published.update(positions)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[None]:
        """Wait to be the only relay."""
        async with self._relay:
            yield

    @asynccontextmanager
    async def sweep_lease(self) -> AsyncIterator[None]:
        """Wait to be the only sweep."""
        async with self._sweep:
            yield
