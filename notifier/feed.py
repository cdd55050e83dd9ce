"""The log into the hub: one reader for all clients, from where the feed stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime

from notifier.hub import Facets, Hub
from pipeline.errors import DependencyDownError, StalledError
from pipeline.ports import Clock, DescribeLog, OpenReader
from pipeline.telemetry import NullTelemetry, Telemetry
from schemas.codec import MalformedEventError, decode
from schemas.dead_letters import DeadLetter
from schemas.event import Event, ImageEvent
from schemas.message import Record
from schemas.replays import is_for_another_stage
from schemas.topics import topics_read_by

logger = logging.getLogger(__name__)

FEED_TOPICS = topics_read_by("notifier")
_RETRY_S = 0.5
# Decoding a record takes 50 µs: this many at once hold the event loop for 5 ms.
POLL_RECORDS = 100
# At its start the feed reads a little of the past of each partition into the ring, so that clients
# that come back after a restart of the notifier do not each need a reader of their own. A restart
# takes seconds; with 200, an old log made a web role 25 MB larger than a young one.
_PAST_RECORDS = 50
_READERS = 8


class Feed:
    """Reads the notifier's topics from their end and publishes to the hub; a `Service`."""

    name = "feed"

    def __init__(
        self,
        hub: Hub,
        open_reader: OpenReader,
        describe: DescribeLog,
        *,
        clock: Clock,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Only assign."""
        self.hub = hub
        # Since when nothing was heard from the broker, None while it answers.
        self.away_since: datetime | None = clock.now()
        self._heard_at = clock.now()
        self.open_reader = open_reader
        self.describe = describe
        self.clock = clock
        # How many clients may read the log by themselves at once, to catch up.
        self.readers = asyncio.Semaphore(_READERS)
        self._telemetry = telemetry or NullTelemetry()

    @property
    def is_away(self) -> bool:
        """Whether the broker does not answer."""
        return self.away_since is not None

    def not_ready(self) -> Sequence[str]:
        """Say so while the broker is away; clients stay connected and are told, too."""
        return ["feed: the broker is away"] if self.is_away else []

    async def run(self) -> None:
        """Read until cancelled; an outage ends where it began, without a gap."""
        try:
            while True:
                try:
                    await self._read()
                except (DependencyDownError, StalledError) as error:
                    self._note_trouble(error)
                await self.clock.sleep(_RETRY_S)
        finally:
            self.hub.close()

    async def _read(self) -> None:
        await self._find_place()
        async with self.open_reader(FEED_TOPICS, dict(self.hub.frontier)) as source:
            self.away_since, self._heard_at = None, self.clock.now()
            while True:
                records = await source.poll(POLL_RECORDS, 1.0)
                self._heard_at = self.clock.now()
                self._publish(records)

    async def _find_place(self) -> None:
        """Go on at the frontier, or begin anew where the log is another or no longer reaches it."""
        extent = await self.describe(FEED_TOPICS)
        hub = self.hub
        if hub.cluster_id == extent.cluster_id and hub.frontier.keys() == extent.end.keys():
            places = hub.frontier.items()
            if all(extent.first[place] <= offset <= extent.end[place] for place, offset in places):
                return
        start = {
            place: max(extent.first[place], end - _PAST_RECORDS)
            for place, end in extent.end.items()
        }
        hub.open(extent.cluster_id, start, extent.end)

    def _publish(self, records: Iterable[Record]) -> None:
        now_s = self.clock.monotonic()
        for record in records:
            told = readable(record)
            if told is None:
                self.hub.pass_over(record.topic_partition, record.offset)
            else:
                facets, text = told
                place = record.topic_partition
                self.hub.publish(place, record.offset, facets, text, now_s)
                self._telemetry.count("feed_events")
        self._telemetry.gauge("feed_clients", self.hub.clients)

    def _note_trouble(self, error: Exception) -> None:
        if not self.is_away:
            fields = {"action": "feed_waits", "reason": str(error)}
            logger.warning("the feed cannot read on and begins again where it was", extra=fields)
            self.away_since = self._heard_at


def readable(record: Record) -> tuple[Facets, str] | None:
    """Return what filters look at and the event's JSON, None for a record that is no event.

    None as well for one that was put back for a stage: the feed told it when it first came.
    """
    if is_for_another_stage(record, "notifier"):
        return None
    try:
        event = decode(record)
    except MalformedEventError as error:
        fields = {"action": "feed_skips", "topic": record.topic, "offset": record.offset}
        logger.warning("a record is no event", extra={**fields, "reason": error.reason})
        return None
    text = event.__pydantic_serializer__.to_json(event).decode()
    return facets_of(record.topic, event), text


def facets_of(topic: str, event: Event) -> Facets:
    """Return what filters look at."""
    subject = event.subject if isinstance(event, ImageEvent | DeadLetter) else None
    verdict = getattr(event, "verdict", None)
    if subject is None:
        return Facets(topic, getattr(event, "product", None), verdict=verdict)
    return Facets(topic, subject.product, subject.source, verdict, subject.image_id)
