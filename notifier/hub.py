"""The live feed's heart, without any input or output: who gets which event.

Events come in the order in which the feed reads them; each is turned into text once and offered
to every subscriber whose filter it matches. The last minute stays in a ring, so that a client
that was away for a moment is served without reading the log again.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from notifier.positions import encode_position
from schemas.message import TopicPartition

_Names = frozenset[str]


class Facets(NamedTuple):
    """What filters look at; None where the event has no such thing."""

    topic: str
    product: str | None = None
    source: str | None = None
    verdict: str | None = None
    image_id: str | None = None


class FeedFilter(BaseModel):
    """What a client wants: every list that is given must hold the event's value.

    An event without a value (an upload has no verdict) does not match a list of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    products: _Names = Field(frozenset(), max_length=1000)
    sources: _Names = Field(frozenset(), max_length=1000)
    verdicts: _Names = Field(frozenset(), max_length=10)
    topics: _Names = Field(frozenset(), max_length=100)
    images: _Names = Field(frozenset(), max_length=10_000)

    def matches(self, facets: Facets) -> bool:
        """Whether the event passes."""
        return (
            (not self.topics or facets.topic in self.topics)
            and (not self.products or facets.product in self.products)
            and (not self.sources or facets.source in self.sources)
            and (not self.verdicts or facets.verdict in self.verdicts)
            and (not self.images or facets.image_id in self.images)
        )


@dataclass(slots=True)
class Entry:
    """One event, ready to send. `position` is where a client stands once it has this."""

    place: TopicPartition
    offset: int
    facets: Facets
    text: str
    position: str
    at_s: float
    _sse: bytes | None = None

    @property
    def sse(self) -> bytes:
        """The event as a server-sent event, made once for all clients."""
        if self._sse is None:
            self._sse = f"id: {self.position}\ndata: {self.text}\n\n".encode()
        return self._sse


def entry_text(topic: str, position: str, event_json: str) -> str:
    """Frame an event's JSON, which stays as it lies on Kafka, for clients."""
    return f'{{"type":"event","topic":"{topic}","position":"{position}","event":{event_json}}}'


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Bounds of the ring and of what may wait for one client.

    The ring is as large as its time says, 5 kB an event; a web role has its size a minute after
    its start. Python keeps Korean text in two bytes a character: 32 MB at most.
    """

    ring_s: float = 60.0
    ring_entries: int = 20_000
    ring_chars: int = 16_000_000
    queue_entries: int = 1_000
    queue_chars: int = 8_000_000
    queue_age_s: float = 10.0


@dataclass(slots=True, eq=False)
class Subscriber:
    """One client: its filter and what waits for it.

    `signal` is called when something came to wait, or when the client became slow: then its
    queue is gone and it gets nothing more.
    """

    wanted: FeedFilter
    signal: Callable[[], None]
    slow: bool = False
    reset: bool = False
    queue: deque[Entry] = field(default_factory=deque)
    chars: int = 0
    # Offsets that the client has from the log already, where the live feed still lies behind.
    floors: dict[TopicPartition, int] = field(default_factory=dict)

    def take(self, limit: int = 100) -> list[Entry]:
        """Return what waits, oldest first."""
        taken = [self.queue.popleft() for _ in range(min(limit, len(self.queue)))]
        self.chars -= sum(len(entry.text) for entry in taken)
        return taken


@dataclass(slots=True)
class Cursor:
    """How far a client that catches up has come: next offsets, and its place in the ring."""

    offsets: dict[TopicPartition, int]
    sequence: int | None = None


class Hub:
    """Subscriptions, the ring, and the feed's frontier: the next offset of each partition."""

    def __init__(self, limits: HubLimits | None = None) -> None:
        """Start closed; `open` makes it usable."""
        self._limits = limits or HubLimits()
        self.cluster_id: str | None = None
        self.frontier: dict[TopicPartition, int] = {}
        self._subscribers: set[Subscriber] = set()
        self._ring: deque[Entry] = deque()
        self._ring_start: dict[TopicPartition, int] = {}
        self._ring_chars = 0
        self._first_sequence = 0
        self._head: dict[TopicPartition, int] = {}
        self._position: str | None = None
        self.generation = 0

    @property
    def is_open(self) -> bool:
        """Whether the feed knows where it stands."""
        return self.cluster_id is not None

    @property
    def clients(self) -> int:
        """How many subscribers get live events."""
        return len(self._subscribers)

    def open(
        self,
        cluster_id: str,
        start: Mapping[TopicPartition, int],
        head: Mapping[TopicPartition, int],
    ) -> None:
        """Begin anew at `start`; `head` is the end of the log, where `latest` lies for now."""
        self.close()
        self.cluster_id = cluster_id
        self.frontier = dict(start)
        self._head = dict(head)
        self._ring_start = dict(start)

    def close(self) -> None:
        """Forget the log; its subscribers are told by `reset` and come back for the new one."""
        for subscriber in tuple(self._subscribers):
            subscriber.reset = True
            self.detach(subscriber)
            subscriber.signal()
        self.cluster_id = None
        self.generation += 1
        self._first_sequence += len(self._ring)
        self._ring.clear()
        self._ring_chars = 0
        self._position = None

    def latest(self) -> dict[TopicPartition, int]:
        """Where a client that wants only news begins."""
        return {
            place: max(offset, self._head.get(place, 0)) for place, offset in self.frontier.items()
        }

    @property
    def position(self) -> str:
        """The frontier as clients see it."""
        if self._position is None:
            assert self.cluster_id is not None
            self._position = encode_position(self.cluster_id, self.frontier)
        return self._position

    def publish(
        self, place: TopicPartition, offset: int, facets: Facets, event_json: str, now_s: float
    ) -> None:
        """Take the next event of a partition; one that lies before the frontier is ignored."""
        if offset < self.frontier.get(place, 0):
            return
        self.pass_over(place, offset)
        text = entry_text(place.topic, self.position, event_json)
        entry = Entry(place, offset, facets, text, self.position, now_s)
        self._ring.append(entry)
        self._ring_chars += len(text)
        self._trim(now_s)
        for subscriber in tuple(self._subscribers):
            if subscriber.wanted.matches(facets):
                self._offer(subscriber, entry)

    def pass_over(self, place: TopicPartition, offset: int) -> None:
        """Move the frontier past a record that is no event."""
        self.frontier[place] = max(offset + 1, self.frontier.get(place, 0))
        self._position = None

    def covers(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Whether the ring and what comes hold everything from these offsets on."""
        return all(offsets.get(place, 0) >= start for place, start in self._ring_start.items())

    def replay(self, cursor: Cursor, wanted: FeedFilter, limit: int = 200) -> list[Entry]:
        """Return matching entries after the cursor and move it; at most `limit` are looked at.

        `covers(cursor.offsets)` must hold.
        """
        begin = max(0, (cursor.sequence or 0) - self._first_sequence)
        found = []
        for entry in itertools.islice(self._ring, begin, begin + limit):
            begin += 1
            if entry.offset < cursor.offsets.get(entry.place, 0):
                continue
            cursor.offsets[entry.place] = entry.offset + 1
            if wanted.matches(entry.facets):
                found.append(entry)
        cursor.sequence = self._first_sequence + begin
        return found

    def is_caught_up(self, cursor: Cursor) -> bool:
        """Whether nothing is left to replay for this cursor."""
        return cursor.sequence == self._first_sequence + len(self._ring)

    def attach(self, subscriber: Subscriber, cursor: Cursor) -> None:
        """Send live events from now on; call it in one breath with `is_caught_up`."""
        subscriber.floors = {
            place: offset
            for place, offset in cursor.offsets.items()
            if offset > self.frontier.get(place, 0)
        }
        self._subscribers.add(subscriber)

    def detach(self, subscriber: Subscriber) -> None:
        """Forget a client."""
        self._subscribers.discard(subscriber)

    def _offer(self, subscriber: Subscriber, entry: Entry) -> None:
        if subscriber.floors and self._is_known(subscriber, entry):
            return
        limits, queue = self._limits, subscriber.queue
        if queue and (
            len(queue) >= limits.queue_entries
            or subscriber.chars + len(entry.text) > limits.queue_chars
            or entry.at_s - queue[0].at_s > limits.queue_age_s
        ):
            # Its place is freed at once; what it has not read it gets when it comes back.
            queue.clear()
            subscriber.chars = 0
            subscriber.slow = True
            self.detach(subscriber)
        else:
            queue.append(entry)
            subscriber.chars += len(entry.text)
        subscriber.signal()

    @staticmethod
    def _is_known(subscriber: Subscriber, entry: Entry) -> bool:
        floor = subscriber.floors.get(entry.place, 0)
        if entry.offset >= floor:
            subscriber.floors.pop(entry.place, None)
            return False
        return True

    def _trim(self, now_s: float) -> None:
        limits, ring = self._limits, self._ring
        while len(ring) > 1 and (
            len(ring) > limits.ring_entries
            or self._ring_chars > limits.ring_chars
            or now_s - ring[0].at_s > limits.ring_s
        ):
            gone = ring.popleft()
            self._ring_chars -= len(gone.text)
            self._first_sequence += 1
            self._ring_start[gone.place] = gone.offset + 1
