"""What a worker says of itself every few seconds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.dispatch import Dispatch
from pipeline.errors import LinesideError
from pipeline.ports import Clock, EventSource, NextRecord, PeekLog
from pipeline.telemetry import MetricName, Telemetry
from pipeline.work import Partition
from schemas.message import TopicPartition

REPORT_EVERY_S = 5.0
# A record that was seen where a partition stands is looked at again after this, in case it is
# deleted; where nothing is, such as after the end of a retention, when something comes or later.
_SEEN_FOR_S = 60.0
_NOTHING_FOR_S = 600.0


class _Look(NamedTuple):
    """What a look at a partition found, and where it and the log stood then."""

    frontier: int | None
    end: int
    found: NextRecord | None
    at_s: float

    def holds(self, frontier: int | None, end: int, now_s: float) -> bool:
        """Whether another look would tell the same."""
        if self.frontier != frontier:
            return False
        if self.found is not None:
            return now_s - self.at_s < _SEEN_FOR_S
        return self.end == end and now_s - self.at_s < _NOTHING_FOR_S


async def peek_nothing(
    places: Mapping[TopicPartition, int | None],  # noqa: ARG001 - the port's shape
) -> Mapping[TopicPartition, NextRecord]:
    """Know nothing of records that were not read (port `PeekLog`)."""
    return {}


@dataclass(slots=True)
class Reporter:
    """Sets the gauges of one worker."""

    dispatch: Dispatch
    clock: Clock
    telemetry: Telemetry
    peek: PeekLog
    _unread: dict[TopicPartition, int | None] = field(default_factory=dict)
    _looks: dict[TopicPartition, _Look] = field(default_factory=dict)

    async def run(self, source: EventSource) -> None:
        """Report until cancelled."""
        while True:
            self._report_state()
            with suppress(LinesideError):  # away; the reader says so, the last figures stand
                await self._report_log(await source.end_offsets())
            await self.clock.sleep(REPORT_EVERY_S)

    def _report_state(self) -> None:
        dispatch = self.dispatch
        partitions = list(dispatch.partitions.values())
        self._gauge("partitions_assigned", len(partitions))
        self._gauge("careful_partitions", len(dispatch.careful))
        self._gauge("records_buffered", len(dispatch.queue))
        self._gauge("records_in_flight", dispatch.in_flight)
        self._gauge("records_held", sum(one.held for one in partitions))
        self._gauge("records_settled_ahead", sum(one.tracker.ahead for one in partitions))

    async def _report_log(self, ends: Mapping[TopicPartition, int]) -> None:
        """Lag and age; what was not read yet is looked at where it lies."""
        partitions = list(self.dispatch.partitions.values())
        unread = {
            one.place: one.tracker.frontier
            for one in partitions
            if not one.tracker.has_unfinished and _waits(one, ends)
        }
        # What came since the last report is about to be read: no reason to connect for it.
        former, self._unread = self._unread, unread
        lasting = {
            place: frontier
            for place, frontier in unread.items()
            if frontier is None or former.get(place, -1) == frontier
        }
        seen = await self._look(lasting, ends)
        lag, oldest_ms = 0, None
        for one in partitions:
            found = seen.get(one.place)
            frontier = one.tracker.frontier
            if frontier is None and found is not None:
                frontier = found.offset
            if frontier is not None:
                lag += max(0, ends.get(one.place, 0) - frontier)
            appended_ms = one.oldest_ms if one.tracker.has_unfinished else None
            if appended_ms is None and found is not None and found.offset >= (frontier or 0):
                appended_ms = found.timestamp_ms
            if appended_ms is not None:
                oldest_ms = appended_ms if oldest_ms is None else min(oldest_ms, appended_ms)
        age_s = 0.0 if oldest_ms is None else self.clock.now().timestamp() - oldest_ms / 1000
        self._gauge("lag_records", lag)
        self._gauge("oldest_age_seconds", max(0.0, age_s))

    async def _look(
        self, places: Mapping[TopicPartition, int | None], ends: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, NextRecord]:
        """Look at records where partitions stand; a look is a connection, so it is not repeated."""
        now_s = self.clock.monotonic()
        looks = {place: look for place, look in self._looks.items() if place in places}
        due = {
            place: frontier
            for place, frontier in places.items()
            if place not in looks or not looks[place].holds(frontier, ends.get(place, 0), now_s)
        }
        found = await self.peek(due) if due else {}
        for place, frontier in due.items():
            looks[place] = _Look(frontier, ends.get(place, 0), found.get(place), now_s)
        self._looks = looks
        return {place: look.found for place, look in looks.items() if look.found is not None}

    def _gauge(self, name: MetricName, value: float) -> None:
        self.telemetry.gauge(name, value, stage=self.dispatch.stage)


def _waits(one: Partition, ends: Mapping[TopicPartition, int]) -> bool:
    end, frontier = ends.get(one.place, 0), one.tracker.frontier
    return end > (0 if frontier is None else frontier)
