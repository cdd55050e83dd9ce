"""Facts and their publication in one transaction (architecture.md section 5)."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, select, update

from adapters.sql.engine import Database
from adapters.sql.fresh_rows import FreshRows
from adapters.sql.leases import hold
from adapters.sql.projection import project, subject_of, upload_row
from adapters.sql.statements import insert, statement
from adapters.sql.summaries import refresh
from adapters.sql.tables import images, outbox, products
from adapters.sql.writing import write_state
from pipeline.errors import ConflictError
from pipeline.housekeeping import OutboxBacklog, RefusedRow
from pipeline.ports import Lease, OutboxRow
from schemas.codec import encode
from schemas.configuration import ProductConfigured
from schemas.event import Event
from schemas.images import ImageUploaded
from schemas.message import Headers, Message, Position
from schemas.subject import Subject

_WAITS = and_(outbox.c.published_at.is_(None), outbox.c.refused.is_(None))
_PENDING = (
    select(outbox.c.id, outbox.c.topic, outbox.c.key, outbox.c.value, outbox.c.headers)
    .where(_WAITS)
    .order_by(outbox.c.id)
    .limit(bindparam("rows"))
)
_FIRST_WAITING = select(outbox.c.id).where(_WAITS).order_by(outbox.c.id).limit(1)
_SIZES = (
    select(func.length(outbox.c.value).label("size_bytes"))
    .where(_WAITS)
    .order_by(outbox.c.id)
    .limit(bindparam("rows"))
)
# So many are read at once, without a look at their sizes: on a quiet line one query is enough.
_FEW = 4
_WAITING = select(func.count()).select_from(outbox).where(_WAITS)
_REFUSED = select(func.count()).select_from(outbox).where(outbox.c.refused.is_not(None))
_SET_ASIDE = (
    select(
        outbox.c.id, outbox.c.event_id, outbox.c.topic, outbox.c.key, outbox.c.created_at,
        outbox.c.refused, func.length(outbox.c.value).label("size_bytes"),
    )
    .where(outbox.c.refused.is_not(None))
    .order_by(outbox.c.id)
    .limit(bindparam("rows"))
)  # fmt: skip
_OLDEST = select(outbox.c.created_at).where(_WAITS).order_by(outbox.c.id).limit(1)
# By the key alone, so that no pass over the whole table is needed to find nothing.
_FIRST = (
    select(outbox.c.id, outbox.c.published_at)
    .where(outbox.c.refused.is_(None))
    .order_by(outbox.c.id)
    .limit(bindparam("rows"))
    .subquery()
)
_PRUNE = outbox.delete().where(
    outbox.c.id.in_(select(_FIRST.c.id).where(_FIRST.c.published_at < bindparam("before")))
)
_PUBLISHED = (
    update(outbox)
    .where(outbox.c.id == bindparam("row_id"))
    .values(
        published_at=bindparam("published_at"),
        partition=bindparam("to_partition"),
        offset=bindparam("to_offset"),
    )
)
_STATE = select(images.c.state).where(images.c.image_id == bindparam("image_id"))
_REVISION = select(products.c.revision).where(products.c.product == bindparam("product"))
_STORING = (
    select(images.c.subject, images.c.label, images.c.upload_event_id, images.c.upload_at)
    .where(images.c.state == "storing", images.c.received_at < bindparam("before"))
    .order_by(images.c.received_at)
    .limit(bindparam("rows"))
)


def stored_headers(headers: Headers) -> list[list[str]]:
    """Return headers as the outbox keeps them; those that are no text are named `base64`."""
    stored = []
    for name, value in headers:
        try:
            stored.append([name, value.decode()])
        except UnicodeDecodeError:
            stored.append([name, b64encode(value).decode(), "base64"])
    return stored


def _as_header(name: str, value: str, encoding: str = "text") -> tuple[str, bytes]:
    return (name, value.encode() if encoding == "text" else b64decode(value))


class SqlOutbox:
    """`Outbox` on SQLite or PostgreSQL."""

    def __init__(
        self, database: Database, *, source: str, on_append: Callable[[], None] | None = None
    ) -> None:
        """`source` is the CloudEvents source; `on_append` wakes the relay of this process."""
        self._database = database
        self._dialect = database.dialect
        self._source = source
        self._on_append = on_append
        self._fresh = FreshRows()
        self._insert_outbox = (
            insert(self._dialect, outbox)
            .values(
                {
                    name: bindparam(name)
                    for name in ("event_id", "topic", "key", "value", "headers", "created_at")
                }
            )
            .on_conflict_do_nothing()
        )

    async def append(self, events: Sequence[Event]) -> Sequence[bool]:
        """Write each event's rows and its outbox row in one transaction (port `Outbox`)."""
        messages = [encode(event, source=self._source) for event in events]

        def work(connection: Connection) -> tuple[list[int | None], int | None]:
            row_ids = [
                self._append(connection, event, message)
                for event, message in zip(events, messages, strict=True)
            ]
            # An upload starts as it should; the rest may change where an image stands.
            subjects = (subject_of(e) for e in events if not isinstance(e, ImageUploaded))
            refresh(connection, {s.image_id for s in subjects if s is not None})
            first = connection.scalar(_FIRST_WAITING) if self._dialect == "sqlite" else None
            return row_ids, first

        row_ids, first = await self._database.write(work)
        rows = [
            OutboxRow(row_id, message)
            for row_id, message in zip(row_ids, messages, strict=True)
            if row_id is not None
        ]
        if rows and rows[0].row_id == first:
            self._fresh.note(rows)
        if self._on_append is not None and rows:
            self._on_append()
        return [row_id is not None for row_id in row_ids]

    def _append(self, connection: Connection, event: Event, message: Message) -> int | None:
        """Write one event's rows; returns its outbox row's id, None if the event was known."""
        row = {
            "event_id": str(event.event_id),
            "topic": message.topic,
            "key": message.key,
            "value": message.value,
            "headers": stored_headers(message.headers),
            "created_at": datetime.now(UTC),
        }
        inserted = connection.execute(self._insert_outbox, row)
        if inserted.rowcount == 0:
            return None
        if isinstance(event, ProductConfigured):
            self._check_revision(connection, event)
        changed = write_state(connection, self._dialect, project(event))
        if isinstance(event, ProductConfigured) and not changed:
            raise ConflictError
        (row_id,) = inserted.inserted_primary_key or (0,)
        return int(row_id)

    def _check_revision(self, connection: Connection, event: ProductConfigured) -> None:
        current = connection.scalar(_REVISION, {"product": event.product}) or 0
        if event.revision != current + 1:
            raise ConflictError(
                f"{event.product} is at revision {current} by now; load it again and repeat"
            )

    async def reserve(self, event: Event) -> str:
        """Note an upload before its bytes are stored (port `Outbox`)."""
        if not isinstance(event, ImageUploaded):
            raise TypeError(f"only an upload is reserved, not {event.type_name}")
        row = upload_row(event, state="storing")
        first = statement(self._dialect, "image")

        def work(connection: Connection) -> str:
            if connection.execute(first, row).rowcount:
                return "new"
            return str(connection.scalar(_STATE, {"image_id": row["image_id"]}))

        # Lost to a power cut, it leaves an object that nobody was promised.
        return await self._database.write(work, durable=False)

    async def unfinished(self, before: datetime, limit: int) -> Sequence[ImageUploaded]:
        """Uploads reserved before then whose bytes or outbox row are missing, oldest first.

        For the sweep: those whose object is there go through `append`, the others through
        `forget`.
        """

        def work(connection: Connection) -> Sequence[Any]:
            return connection.execute(_STORING, {"before": before, "rows": limit}).all()

        return [
            ImageUploaded(
                event_id=row.upload_event_id,
                occurred_at=row.upload_at,
                subject=Subject.model_validate(row.subject),
                label=row.label,
            )
            for row in await self._database.read(work)
        ]

    async def forget(self, image_id: str) -> None:
        """Drop a reservation whose bytes never came; an accepted image is left alone."""
        gone = images.delete().where(images.c.image_id == image_id, images.c.state == "storing")

        def work(connection: Connection) -> None:
            connection.execute(gone)

        await self._database.write(work, durable=False)

    async def pending(self, limit: int, max_bytes: int = 4_000_000) -> Sequence[OutboxRow]:
        """Return unpublished rows, oldest first, chosen by their flag (port `Outbox`)."""
        if fresh := self._fresh.take(limit, max_bytes):
            return fresh

        def work(connection: Connection) -> Sequence[Any]:
            few = connection.execute(_PENDING, {"rows": min(limit, _FEW)}).all()
            if len(few) < _FEW and sum(len(row.value or b"") for row in few) <= max_bytes:
                return few
            sizes = connection.execute(_SIZES, {"rows": limit}).all()
            totals = accumulate(row.size_bytes or 0 for row in sizes)
            fitting = sum(total <= max_bytes for total in totals)
            if not sizes:
                return ()
            return connection.execute(_PENDING, {"rows": max(1, fitting)}).all()

        rows = [
            OutboxRow(
                row.id,
                Message(
                    row.topic, row.key, row.value, tuple(_as_header(*one) for one in row.headers)
                ),
            )
            for row in await self._database.read(work)
        ]
        self._fresh.gave(rows)
        return rows

    async def mark_published(self, positions: Mapping[int, Position]) -> None:
        """Note where rows were published."""
        now = datetime.now(UTC)
        rows = [
            {
                "row_id": row_id,
                "published_at": now,
                "to_partition": position.partition,
                "to_offset": position.offset,
            }
            for row_id, position in sorted(positions.items())
        ]
        if not rows:
            return

        def work(connection: Connection) -> None:
            connection.execute(_PUBLISHED, rows)

        # Lost to a power cut, the rows are published again under their ids.
        await self._database.write(work, durable=False)

    async def set_aside(self, row_id: int, reason: str) -> None:
        """Keep a row that can never be published, and why (port `Outbox`)."""
        aside = update(outbox).where(outbox.c.id == row_id).values(refused=reason)

        def work(connection: Connection) -> None:
            connection.execute(aside)

        await self._database.write(work)

    async def refused_rows(self, limit: int) -> Sequence[RefusedRow]:
        """Return the rows that were set aside (port `RefusedRows`)."""

        def work(connection: Connection) -> Sequence[Any]:
            return connection.execute(_SET_ASIDE, {"rows": limit}).all()

        return [
            RefusedRow(
                row.id, row.event_id, row.topic,
                None if row.key is None else row.key.decode("utf-8", "replace"),
                row.size_bytes or 0, row.created_at, row.refused,
            )
            for row in await self._database.read(work)
        ]  # fmt: skip

    async def put_back(self, row_ids: Sequence[int]) -> int:
        """Let the relay try rows again (port `RefusedRows`)."""
        chosen = outbox.c.id.in_(row_ids) & outbox.c.refused.is_not(None)
        again = update(outbox).where(chosen).values(refused=None)

        def work(connection: Connection) -> int:
            return connection.execute(again).rowcount

        return await self._database.write(work)

    async def backlog(self) -> OutboxBacklog:
        """Count the rows that wait for the relay (port `OutboxKeeping`)."""

        def work(connection: Connection) -> OutboxBacklog:
            return OutboxBacklog(
                connection.scalar(_WAITING) or 0,
                connection.scalar(_OLDEST),
                connection.scalar(_REFUSED) or 0,
            )

        return await self._database.read(work)

    async def prune(self, before: datetime, limit: int) -> int:
        """Drop the oldest rows that were published before then (port `OutboxKeeping`).

        A row that waits ends the pass when `limit` rows of its age stand before the others.
        """

        def work(connection: Connection) -> int:
            return connection.execute(_PRUNE, {"before": before, "rows": limit}).rowcount

        return await self._database.write(work, durable=False)

    def lease(self) -> AbstractAsyncContextManager[Lease]:
        """Wait to be the only relay, and stay it until the context ends (port `Outbox`)."""
        return self._relay_lease()

    @asynccontextmanager
    async def _relay_lease(self) -> AsyncIterator[Lease]:
        async with hold(self._database, "relay") as lease:
            with self._fresh.held():
                yield lease

    def sweep_lease(self) -> AbstractAsyncContextManager[Lease]:
        """Wait to be the only sweep (port `Reservations`)."""
        return hold(self._database, "sweep")
