"""The outbox in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import accumulate

from adapters.memory.tables import ImageRow, MemoryTables
from pipeline.errors import ConflictError, DependencyDownError
from pipeline.housekeeping import OutboxBacklog, RefusedRow
from pipeline.ports import OutboxRow
from schemas.codec import encode
from schemas.configuration import ProductConfigured
from schemas.event import Event
from schemas.images import ImageUploaded
from schemas.message import Position


class MemoryLease:
    """A lease that a test takes away by setting `is_lost`."""

    is_lost = False

    async def check(self) -> None:
        """Raise DependencyDownError once it is lost."""
        if self.is_lost:
            raise DependencyDownError("database", "the lease is lost")


class MemoryOutbox:
    """`Outbox` over `MemoryTables`; `published` shows where rows went."""

    def __init__(
        self, tables: MemoryTables, *, source: str, on_append: Callable[[], None] | None = None
    ) -> None:
        """As for the SQL outbox."""
        self.published: dict[int, Position] = {}
        self.refused: dict[int, str] = {}
        self._tables = tables
        self._source = source
        self._on_append = on_append
        self._rows: dict[int, OutboxRow] = {}
        self._event_ids: set[str] = set()
        self._last_id = 0
        # When each row was written, and when it was published.
        self._times: dict[int, tuple[datetime, datetime]] = {}
        self.relay_lease = MemoryLease()
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
                row_id = self._last_id = self._last_id + 1
                now = datetime.now(UTC)
                self._times[row_id] = (now, now)
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

    async def pending(self, limit: int, max_bytes: int = 4_000_000) -> Sequence[OutboxRow]:
        """Return unpublished rows, oldest first (port `Outbox`)."""
        waiting = self._waiting()[:limit]
        totals = accumulate(len(row.message.value or b"") for row in waiting)
        return waiting[: max(1, sum(total <= max_bytes for total in totals))]

    def unsent(self) -> set[str]:
        """Return the ids of events that were not published, be it that they never can."""
        return {
            _event_id(row) for row_id, row in self._rows.items() if row_id not in self.published
        }

    def _waiting(self) -> list[OutboxRow]:
        gone = (self.published, self.refused)
        return [row for row_id, row in self._rows.items() if not any(row_id in one for one in gone)]

    async def backlog(self) -> OutboxBacklog:
        """Count the rows that wait for the relay (port `OutboxKeeping`)."""
        waiting = self._waiting()
        oldest_at = self._times[waiting[0].row_id][0] if waiting else None
        return OutboxBacklog(len(waiting), oldest_at, len(self.refused))

    async def prune(self, before: datetime, limit: int) -> int:
        """Drop the oldest rows that were published before then (port `OutboxKeeping`)."""
        gone = [
            row_id
            for row_id in [one for one in self._rows if one not in self.refused][:limit]
            if row_id in self.published and self._times[row_id][1] < before
        ]
        for row_id in gone:
            self._event_ids.discard(_event_id(self._rows.pop(row_id)))
        return len(gone)

    async def mark_published(self, positions: Mapping[int, Position]) -> None:
        """Note where rows were published."""
        self.published.update(positions)
        for row_id in positions:
            self._times[row_id] = (self._times[row_id][0], datetime.now(UTC))

    async def set_aside(self, row_id: int, reason: str) -> None:
        """Keep a row that can never be published, and why (port `Outbox`)."""
        self.refused[row_id] = reason

    async def refused_rows(self, limit: int) -> Sequence[RefusedRow]:
        """Return the rows that were set aside (port `RefusedRows`)."""
        found = []
        for row_id in sorted(self.refused)[:limit]:
            row, (created_at, _) = self._rows[row_id], self._times[row_id]
            key, value = row.message.key, row.message.value
            found.append(
                RefusedRow(
                    row_id, _event_id(row), row.message.topic,
                    None if key is None else key.decode("utf-8", "replace"),
                    len(value or b""), created_at, self.refused[row_id],
                )
            )  # fmt: skip
        return found

    async def put_back(self, row_ids: Sequence[int]) -> int:
        """Let the relay try rows again (port `RefusedRows`)."""
        return sum(self.refused.pop(row_id, None) is not None for row_id in set(row_ids))

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[MemoryLease]:
        """Wait to be the only relay."""
        async with self._relay:
            yield self.relay_lease

    @asynccontextmanager
    async def sweep_lease(self) -> AsyncIterator[MemoryLease]:
        """Wait to be the only sweep."""
        async with self._sweep:
            yield MemoryLease()


def _event_id(row: OutboxRow) -> str:
    return dict(row.message.headers)["ce_id"].decode()
