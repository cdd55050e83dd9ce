"""What the pipeline needs from the world, as small Protocols; adapters/ fulfils them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from schemas.event import Event
from schemas.message import Message, Position, Record, TopicPartition


class Commit(NamedTuple):
    """A committed position: the next offset to read, and the worker's note beside it."""

    offset: int
    metadata: str = ""


class AssignmentListener(Protocol):
    """Told when partitions come and go; both calls may commit."""

    async def assigned(self, partitions: Mapping[TopicPartition, Commit | None]) -> None:
        """Partitions came; each with its committed position, None where there is none."""
        ...

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions are about to go; the group waits until this returns."""
        ...


class EventSource(Protocol):
    """A position in topics: a group member, or a reader of its own that never commits."""

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """Return records in log order per partition, none when `timeout_s` passed without any.

        Raises:
            DependencyDownError: the broker is away; call again.
            StalledError: this source cannot go on; open a new one.
        """
        ...

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Return nothing more of these until `resume`; the rest flows. Membership is kept.

        A pause outlives a rebalance: a partition that comes back is still paused.
        """
        ...

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Undo `pause`."""
        ...

    async def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        """Commit explicit positions.

        Raises:
            TransientError: not committed; the group has moved on or the broker is away.
        """
        ...

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Next offset to be written of each partition read."""
        ...


class OpenSource(Protocol):
    """Opens a source; leaving the context leaves the group."""

    def __call__(self, listener: AssignmentListener) -> AbstractAsyncContextManager[EventSource]:
        """Open for one listener."""
        ...


class WitnessView(NamedTuple):
    """What an outsider sees of a group member, over connections of its own.

    `answers` False: the broker takes connections and says nothing, the rest is unknown then.
    `positions` are what the member itself would read next, None where it does not know.
    """

    answers: bool
    is_stable: bool = False
    is_member: bool = False
    assigned: frozenset[TopicPartition] = frozenset()
    positions: Mapping[TopicPartition, int | None] = MappingProxyType({})
    ends: Mapping[TopicPartition, int] = MappingProxyType({})


class GroupWitness(Protocol):
    """Looks at a group from outside: what a frozen member cannot say of itself."""

    async def __call__(self, member: EventSource | None) -> WitnessView:
        """Look at `member`, or only whether the broker answers when there is none.

        Raises:
            DependencyDownError: the broker cannot be reached.
        """
        ...


class NextRecord(NamedTuple):
    """The first record at or after an offset: where it lies, and when it was appended."""

    offset: int
    timestamp_ms: int


class PeekLog(Protocol):
    """Looks at records without being a member."""

    async def __call__(
        self, places: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, NextRecord]:
        """Return the first record at each offset (None: the log's start), absent where none is.

        Raises:
            DependencyDownError: the broker is away.
        """
        ...


class OpenReader(Protocol):
    """Opens a source outside any group, for replicas, the feed and replays."""

    def __call__(
        self,
        topics: Collection[str],
        start: Mapping[TopicPartition, int] | str = "earliest",
    ) -> AbstractAsyncContextManager[EventSource]:
        """Read all partitions of `topics` from explicit offsets, `earliest` or `latest`."""
        ...


class LogExtent(NamedTuple):
    """What the log holds of some topics: per partition the first offset kept and the next one."""

    cluster_id: str
    first: Mapping[TopicPartition, int]
    end: Mapping[TopicPartition, int]


class DescribeLog(Protocol):
    """Tells the feed whether a client's position still lies in the log."""

    async def __call__(self, topics: Collection[str]) -> LogExtent:
        """Look up cluster id, first and end offsets of all partitions of `topics`.

        Raises:
            DependencyDownError: the broker is away.
        """
        ...


class EventSink(Protocol):
    """Publishes and waits for the acknowledgement of all in-sync replicas."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
        """Publish in order per key; returns where each message lies.

        Raises:
            TransientError: at least one is not known to be written; publishing all again is safe,
                since events are deduplicated by their id.
        """
        ...


class BlobStat(NamedTuple):
    """What the store knows of an object."""

    key: str
    size_bytes: int
    modified_at: datetime


class BlobStore(Protocol):
    """Objects by key. `bucket` None means the store's own; others must be on the allow-list.

    Every method may raise DependencyDownError (`objects`) when the store is away, and
    PoisonError(`bucket_not_allowed`) for a bucket or prefix that is not on the allow-list.
    """

    async def get(
        self, key: str, *, bucket: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        """Return an object's bytes.

        Raises:
            PoisonError: `object_missing`, or `object_too_large`.
        """
        ...

    async def put(self, key: str, data: bytes, *, content_type: str) -> None:
        """Write an object durably; the same key with the same bytes is no error."""
        ...

    async def stat(self, key: str) -> BlobStat | None:
        """Look an object up, None where there is none."""
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; one that is absent is no error."""
        ...

    def list(self, prefix: str) -> AsyncIterator[BlobStat]:
        """Walk the objects below a prefix, in key order."""
        ...


class OutboxRow(NamedTuple):
    """A message waiting for the relay."""

    row_id: int
    message: Message


class Lease(Protocol):
    """The right to be the only one, which the world may take away at any moment."""

    async def check(self) -> None:
        """Return if the right was not lost up to now: ask before each act that depends on it.

        Raises:
            DependencyDownError: `database`; it is lost, or nobody can tell.
        """
        ...


class Outbox(Protocol):
    """Facts and their publication in one transaction (architecture.md section 5)."""

    async def append(self, events: Sequence[Event]) -> Sequence[bool]:
        """Write each event's rows and its outbox row in one transaction.

        Returns, per event, whether it was new: one whose event_id is known changes nothing.

        Raises:
            ConflictError: a product's `revision` is not the next one; nothing was written.
        """
        ...

    async def reserve(self, event: Event) -> str:
        """Note an upload before its bytes are stored (`images.state = storing`).

        Returns `new`, `storing` (an earlier try did not finish), or `accepted` (a duplicate).
        """
        ...

    async def pending(self, limit: int, max_bytes: int = 4_000_000) -> Sequence[OutboxRow]:
        """Return unpublished rows, oldest first, chosen by their flag.

        At most `limit` of them and `max_bytes` of values, but one if there is any.
        """
        ...

    async def mark_published(self, positions: Mapping[int, Position]) -> None:
        """Note where rows were published."""
        ...

    async def set_aside(self, row_id: int, reason: str) -> None:
        """Keep a row that can never be published, and why; it is pending no more."""
        ...

    def lease(self) -> AbstractAsyncContextManager[Lease]:
        """Wait to be the only relay, and stay it until the context ends or the lease is lost."""
        ...


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """Which images to list; absent fields match all. Times are aware UTC."""

    product: str | None = None
    verdict: str | None = None
    status: str | None = None
    source: str | None = None
    lot_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    unacknowledged: bool = False


class Inspections(Protocol):
    """What is known of images: results, skips, reviews and dead letters."""

    async def save(self, events: Sequence[Event]) -> Sequence[bool]:
        """Write derived events in one transaction, in any order; the first of an id wins.

        Returns, per event, whether it was new.
        """
        ...

    async def get(self, image_id: str) -> dict[str, Any] | None:
        """Return one image as `GET /v1/images/{image_id}` shows it, None if unknown."""
        ...

    async def list(
        self, image_filter: ImageFilter, *, cursor: str | None, limit: int
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        """Return a page, newest first, and the cursor of the next one."""
        ...

    async def stats(
        self, *, product: str | None, since: datetime | None, bucket: str | None
    ) -> dict[str, Any]:
        """Count by verdict, per lot and per `bucket` of time (`hour`, `day`)."""
        ...

    async def current(self, image_id: str, stage: str) -> Event | None:
        """Return a stage's current result for an image (newest origin), None without one."""
        ...


class Catalog(Protocol):
    """Configuration as the tables hold it; changes go through `Outbox.append`."""

    async def products(self) -> Sequence[dict[str, Any]]:
        """All products that were not removed, by code."""
        ...

    async def product(self, code: str) -> dict[str, Any] | None:
        """One product's newest ProductConfigured as JSON, None if unknown or removed."""
        ...

    async def rows(
        self,
        kind: str,
        product: str | None = None,
        *,
        row_id: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[dict[str, Any]]:
        """`banks`, `cases`, `manuals` or `defect_types`, newest first, JSON-ready, none removed.

        Narrowed to a product, or to the one of that id (version, case_id, manual_id, code).
        """
        ...

    async def add_defect_type(self, product: str, defect_type: Mapping[str, str]) -> None:
        """Add a defect type: `code`, `name_ko`, `name_en`.

        Raises:
            ConflictError: the code or a name exists.
        """
        ...

    async def note_search(self, entry: Mapping[str, Any]) -> None:
        """Keep one line of search history."""
        ...


class TextModel(Protocol):
    """A language model behind a server."""

    name: str

    def stream(self, system: str, user: str, *, max_tokens: int) -> AsyncIterator[str]:
        """Yield text pieces as the server makes them; closing the iterator cancels the work.

        Raises:
            DependencyDownError: `llm`, away or overloaded; attempts are not counted.
            TransientError: this answer broke off.
            PoisonError: the server refuses this prompt for good.
        """
        ...

    async def check(self) -> str:
        """One real round trip; returns the model's name.

        Raises:
            DependencyDownError: away.
            ConfigError: credentials refused, or no such model.
        """
        ...


class Clock(Protocol):
    """Time, so that tests own it."""

    def now(self) -> datetime:
        """Aware UTC, for what people and events see."""
        ...

    def monotonic(self) -> float:
        """Seconds, for intervals."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
