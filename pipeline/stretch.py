"""A bounded stretch of a topic as a worker's source, outside any group: what a replay reads.

The worker commits as ever, but its positions stay in this process: no group hears of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pipeline.ports import AssignmentListener, Clock, Commit, EventSource, OpenReader
from schemas.codec import MalformedEventError, decode
from schemas.event import ImageEvent
from schemas.message import Record, TopicPartition

logger = logging.getLogger(__name__)

# A stretch may end in offsets that hold no records (transaction markers, compaction): after so many
# seconds of polls that found nothing the rest counts as such. Long, for the reader must notice by
# itself when it stalls, and a busy machine may take seconds to a first fetch.
_SILENT_S = 30.0

Skip = Literal["time", "product", "unreadable"]


class Span(NamedTuple):
    """Offsets of one partition, from `start` up to and without `stop`."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records of a stretch are worked through, and how fast.

    Attributes:
        since_ms: earliest append time, Unix milliseconds UTC, None for no such bound.
        until_ms: append time at which the selection ends, not included.
        product: only events about this product; what cannot be read has none.
        limit: most records that are worked through.
        rate: most records a second.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    product: str | None = None
    limit: int | None = None
    rate: float | None = None

    def skips(self, record: Record) -> Skip | None:
        """Return why a record is left out, None if it is not."""
        appended_ms = record.timestamp_ms
        if self.since_ms is not None and appended_ms < self.since_ms:
            return "time"
        if self.until_ms is not None and appended_ms >= self.until_ms:
            return "time"
        return None if self.product is None else self._skips_product(record)

    def _skips_product(self, record: Record) -> Skip | None:
        try:
            event = decode(record)
        except MalformedEventError:
            return "unreadable"
        is_meant = isinstance(event, ImageEvent) and event.subject.product == self.product
        return None if is_meant else "product"


class Pace:
    """At most `rate` a second, in bursts of one second's worth at most; pure."""

    def __init__(self, rate: float | None) -> None:
        """No limit where `rate` is None."""
        self._rate = rate
        self._tokens = 1.0
        self._at: float | None = None

    def allowance(self, now: float) -> int:
        """Return how many may go at the monotonic time `now`."""
        if self._rate is None:
            return 1_000_000
        elapsed_s = 0.0 if self._at is None else now - self._at
        self._at = now
        self._tokens = min(max(1.0, self._rate), self._tokens + elapsed_s * self._rate)
        return math.floor(self._tokens)

    def spend(self, count: int) -> None:
        """Note that so many went."""
        self._tokens -= count

    @property
    def wait_s(self) -> float:
        """Seconds until the next one may go."""
        return max(0.0, (1.0 - self._tokens) / self._rate) if self._rate else 0.0


@dataclass(slots=True)
class _Place:
    """How far one partition is. `due` is the position to be committed once all is settled."""

    span: Span
    position: int
    committed: int
    due: int

    @property
    def covered(self) -> Span:
        """Offsets that are settled or left out, without a gap."""
        return Span(self.span.start, self.position if self.is_settled else self.committed)

    @property
    def is_settled(self) -> bool:
        return self.committed >= self.due


@dataclass
class StretchSource:
    """Opens itself (port `OpenSource`) and reads one stretch (port `EventSource`); used once.

    Attributes:
        read: records read so far.
        skipped: records left out by the selection, by reason.
        selected: records given to the worker.
        holes: offsets of the stretch that hold no record.
    """

    open_reader: OpenReader
    stretch: Mapping[TopicPartition, Span]
    selection: Selection
    clock: Clock
    read: int = 0
    skipped: Counter[Skip] = field(default_factory=Counter)
    selected: int = 0
    holes: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Stand at the start of each partition that has any records."""
        self._places = {
            place: _Place(span, span.start, span.start, span.start)
            for place, span in self.stretch.items()
            if span.start < span.stop
        }
        self._pace = Pace(self.selection.rate)
        self._paused: set[TopicPartition] = set()
        self._reader: EventSource | None = None
        self._stack = AsyncExitStack()
        self._silent_s = 0.0

    def __call__(self, listener: AssignmentListener) -> AbstractAsyncContextManager[EventSource]:
        """Open for one listener, which gets every partition of the stretch at once."""
        return self._open(listener)

    @asynccontextmanager
    async def _open(self, listener: AssignmentListener) -> AsyncIterator[EventSource]:
        try:
            starts = {place: Commit(one.position) for place, one in self._places.items()}
            await listener.assigned(starts)
            self._note_done()
            yield self
        finally:
            await self._stack.aclose()

    # -- how far ------------------------------------------------------------------------------

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing more will be given to the worker."""
        if self.selection.limit is not None and self.selected >= self.selection.limit:
            return True
        return not self._unread()

    def covered(self) -> dict[TopicPartition, Span]:
        """Return the offsets that are settled or left out, per partition."""
        return {place: one.covered for place, one in self._places.items()}

    def _unread(self) -> list[TopicPartition]:
        return [place for place, one in self._places.items() if one.position < one.span.stop]

    def _note_done(self) -> None:
        if self.is_exhausted and all(one.is_settled for one in self._places.values()):
            self.done.set()

    # -- port EventSource ---------------------------------------------------------------------

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """Return selected records, at most as many as the rate allows.

        Raises:
            DependencyDownError: the broker is away; call again.
            StalledError: the log no longer holds the stretch.
        """
        if self.is_exhausted:
            await self.clock.sleep(timeout_s)
            return ()
        wanted = min(max_records, self._pace.allowance(self.clock.monotonic()))
        if wanted < 1:
            await self.clock.sleep(min(timeout_s, self._pace.wait_s))
            return ()
        if self.selection.limit is not None:
            wanted = min(wanted, self.selection.limit - self.selected)
        reader = self._reader or await self._connect()
        asked = self.clock.monotonic()
        records = await reader.poll(wanted, timeout_s)
        chosen = [record for record in records if self._take(record)]
        self._pace.spend(len(chosen))
        self._stop_at_ends(reader)
        if records or set(self._unread()) <= self._paused:
            self._silent_s = 0.0
        else:
            self._silent_s += self.clock.monotonic() - asked
            self._end_in_silence()
        self._note_done()
        return chosen

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Return nothing of these until `resume`."""
        self._paused |= set(partitions)
        if self._reader is not None:
            self._reader.pause(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Undo `pause`; what was read to its end stays so."""
        self._paused -= set(partitions)
        if self._reader is not None:
            self._reader.resume(set(partitions) & set(self._unread()))

    async def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        """Keep positions in memory; no group is told."""
        for place, commit in offsets.items():
            self._places[place].committed = commit.offset
        self._note_done()

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Where the stretch ends in each partition."""
        return {place: one.span.stop for place, one in self._places.items()}

    # -- reading ------------------------------------------------------------------------------

    def _take(self, record: Record) -> bool:
        """Count a record; returns whether it goes to the worker."""
        one = self._places.get(record.topic_partition)
        if one is None or not one.position <= record.offset < one.span.stop:
            return False
        self.holes += record.offset - one.position
        one.position = record.offset + 1
        self.read += 1
        reason = self.selection.skips(record)
        if reason is not None:
            self.skipped[reason] += 1
            return False
        self.selected += 1
        one.due = one.position
        return True

    def _stop_at_ends(self, reader: EventSource) -> None:
        ended = set(self._places) - set(self._unread())
        if ended:
            reader.pause(ended)

    async def _connect(self) -> EventSource:
        topics = sorted({place.topic for place in self.stretch})
        starts = {place: span.stop for place, span in self.stretch.items()}
        starts |= {place: one.position for place, one in self._places.items()}
        reader = await self._stack.enter_async_context(self.open_reader(topics, starts))
        reader.pause(self._paused | (set(self.stretch) - set(self._unread())))
        self._reader = reader
        return reader

    def _end_in_silence(self) -> None:
        """Take what was silent for long for offsets without records."""
        if self._silent_s < _SILENT_S:
            return
        unread = self._unread()
        logger.warning(
            "the stretch ends in offsets without records",
            extra={"action": "stretch_ends_in_silence", "partitions": len(unread)},
        )
        for place in unread:
            one = self._places[place]
            self.holes += one.span.stop - one.position
            one.position = one.span.stop
