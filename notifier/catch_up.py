"""One client's way to the live feed: from the log, through the ring, without a gap between.

    LOG   a reader of its own, until the ring holds all that follows
    RING  the last minutes, in pieces, as fast as the client takes them
    LIVE  what the hub offers

Each step begins where the one before ended, per partition, so nothing is missed and nothing is
reordered; at a hand-over an event may come twice, never less than once.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import NamedTuple

from notifier.feed import FEED_TOPICS, POLL_RECORDS, Feed, readable
from notifier.hub import Cursor, Entry, FeedFilter, Subscriber, entry_text
from notifier.positions import decode_position, encode_position
from pipeline.ports import EventSource
from schemas.message import Record, TopicPartition
from schemas.subject import rfc3339_ms

_CHUNK = 100
_LOG_WAIT_S = 0.2


class SlowClientError(Exception):
    """The client reads slower than events come; it resumes from the last position it got."""


class FeedResetError(Exception):
    """The log is another one now; the client subscribes again."""


class Hello(NamedTuple):
    """Where delivery begins, and where the feed's head was then.

    Not `recovered`: the position asked for is of another cluster, or the log has let go of
    events after it; what lies before `start` may be missing.
    """

    recovered: bool
    start: str
    head: str

    def as_json(self) -> dict[str, object]:
        """Return the message of interfaces.md section 4."""
        told = {"type": "hello", "recovered": self.recovered}
        return {**told, "from": self.start, "to": self.head}


class Session:
    """One client. Use it as a context manager around `open` and `next`."""

    def __init__(self, feed: Feed, wanted: FeedFilter) -> None:
        """Only assign."""
        self._feed = feed
        self._hub = feed.hub
        self._wanted = wanted
        self.news = asyncio.Event()
        self.slow = asyncio.Event()
        self._subscriber = Subscriber(wanted, self._on_signal)
        self._cursor = Cursor({})
        self._generation = self._hub.generation
        self._is_live = False
        self._source: EventSource | None = None
        self._log = AsyncExitStack()
        self.resume_from = ""

    async def open(self, position: str) -> Hello:
        """Find where to begin: `latest`, `earliest`, or a position that the feed gave.

        Raises:
            ValueError: no position at all.
            DependencyDownError: the log must be asked, and the broker is away.
        """
        hub = self._hub
        assert hub.cluster_id is not None
        recovered = True
        if position == "latest":
            start = hub.latest()
        elif position == "earliest":
            start = dict((await self._feed.describe(FEED_TOPICS)).first)
        else:
            recovered, start = await self._resume(position)
        self._generation = hub.generation
        self._cursor = Cursor(start)
        self.resume_from = encode_position(hub.cluster_id, start)
        return Hello(recovered, self.resume_from, encode_position(hub.cluster_id, hub.latest()))

    async def _resume(self, text: str) -> tuple[bool, dict[TopicPartition, int]]:
        hub, asked = self._hub, decode_position(text)
        if asked.cluster_id != hub.cluster_id:
            return False, hub.latest()
        frontier = hub.frontier
        if hub.covers(asked.offsets) and all(
            asked.offsets.get(place, 0) <= offset for place, offset in frontier.items()
        ):
            return True, {place: asked.offsets.get(place, 0) for place in frontier}
        extent = await self._feed.describe(FEED_TOPICS)
        start, recovered = {}, True
        for place, first in extent.first.items():
            # A partition that the position does not know is newer than it: all of it is news.
            offset = asked.offsets.get(place, first)
            start[place] = min(max(offset, first), extent.end[place])
            recovered = recovered and start[place] == offset
        return recovered, start

    @property
    def position(self) -> str:
        """Where a client stands that was sent all that `next` returned."""
        hub = self._hub
        if not self._is_live and hub.cluster_id is not None:
            return encode_position(hub.cluster_id, self._cursor.offsets)
        if self._subscriber.queue or self._subscriber.floors or not hub.is_open:
            return self.resume_from
        return hub.position

    async def next(self) -> list[Entry]:
        """Return the next events, none if nothing came until `news` was set or a moment passed.

        Raises:
            SlowClientError: too much waits for this client.
            FeedResetError: the log is another one now.
            DependencyDownError, StalledError: the log cannot be read on; the client comes back.
        """
        if self._generation != self._hub.generation or self._subscriber.reset:
            raise FeedResetError
        if self._is_live:
            entries = await self._next_live()
        elif self._hub.covers(self._cursor.offsets):
            await self._close_log()
            entries = self._next_from_ring()
            await asyncio.sleep(0)  # others get their turn between two pieces
        else:
            entries = await self._next_from_log()
        return entries

    def heartbeat(self) -> dict[str, object]:
        """Return the message of interfaces.md section 4, and whether the broker answers."""
        told: dict[str, object] = {
            "type": "heartbeat",
            "server_time": rfc3339_ms(self._feed.clock.now()),
            "position": self.position,
            "broker": "up",
        }
        away_since = self._feed.away_since
        if away_since is not None:
            told |= {"broker": "away", "broker_away_since": rfc3339_ms(away_since)}
        return told

    def note_sent(self, entry: Entry) -> None:
        """Note that an event went out: the client stands behind it now."""
        self.resume_from = entry.position

    async def close(self) -> None:
        """Leave the hub and the log."""
        self._hub.detach(self._subscriber)
        await self._close_log()

    async def _next_live(self) -> list[Entry]:
        if self._subscriber.slow:
            raise SlowClientError
        if not self._subscriber.queue:
            await self.news.wait()
        self.news.clear()
        return self._subscriber.take(_CHUNK)

    def _next_from_ring(self) -> list[Entry]:
        entries = self._hub.replay(self._cursor, self._wanted, _CHUNK)
        if self._hub.is_caught_up(self._cursor):
            self._hub.attach(self._subscriber, self._cursor)
            self._is_live = True
        return entries

    async def _next_from_log(self) -> list[Entry]:
        if self._source is None:
            try:
                async with asyncio.timeout(_LOG_WAIT_S):
                    await self._feed.readers.acquire()
            except TimeoutError:
                return []
            self._log.callback(self._feed.readers.release)
            reader = self._feed.open_reader(FEED_TOPICS, dict(self._cursor.offsets))
            self._source = await self._log.enter_async_context(reader)
        records = await self._source.poll(POLL_RECORDS, _LOG_WAIT_S)
        return [entry for record in records if (entry := self._entry(record)) is not None]

    def _entry(self, record: Record) -> Entry | None:
        place, cluster_id = record.topic_partition, self._hub.cluster_id
        self._cursor.offsets[place] = record.offset + 1
        told = readable(record)
        if told is None or cluster_id is None or not self._wanted.matches(told[0]):
            return None
        position = encode_position(cluster_id, self._cursor.offsets)
        text = entry_text(record.topic, position, told[1])
        now_s = self._feed.clock.monotonic()
        return Entry(place, record.offset, told[0], text, position, now_s)

    async def _close_log(self) -> None:
        self._source = None
        log, self._log = self._log, AsyncExitStack()
        await log.aclose()

    def _on_signal(self) -> None:
        self.news.set()
        if self._subscriber.slow:
            self.slow.set()
