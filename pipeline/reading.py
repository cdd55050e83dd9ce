"""Reading: polling never stops, so membership survives long work; partitions pause when full."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.committing import Committer
from pipeline.dispatch import Dispatch
from pipeline.errors import DependencyDownError
from pipeline.ports import Clock, EventSource
from pipeline.telemetry import Telemetry
from pipeline.waiting import within
from pipeline.work import Partition
from pipeline.worker_settings import WorkerSettings
from schemas.message import Record, TopicPartition

logger = logging.getLogger(__name__)

_RETRY_S = 0.2
_PAUSED_POLL_S = 0.05


@dataclass(slots=True)
class Reader:
    """Feeds a dispatch from a source.

    Attributes:
        trouble: what is wrong with the source, None while it answers.
        last_turn: monotonic time of the last poll; a stuck loop shows here.
    """

    dispatch: Dispatch
    committer: Committer
    clock: Clock
    telemetry: Telemetry
    settings: WorkerSettings
    trouble: str | None = None
    last_turn: float = 0.0

    async def run(self, source: EventSource) -> None:
        """Poll until cancelled.

        Raises:
            StalledError: the source cannot go on.
        """
        flow = _Flow(self.dispatch, self.settings)
        self.dispatch.wake.room = flow.note_room
        self.telemetry.gauge("partitions_paused", 0, stage=self.dispatch.stage)
        while True:
            self.last_turn = self.clock.monotonic()
            if flow.is_full and not flow.paused:
                # Most often there is room again before a pause would pay (280 ms p50, measured).
                await within(flow.room.wait(), self.settings.pause_after_s, self.clock)
            if flow.apply(source, self.clock.monotonic()):
                count = len(flow.paused)
                self.telemetry.gauge("partitions_paused", count, stage=self.dispatch.stage)
            polls = [await self._poll(source, flow)]
            if self.settings.linger_s and polls[0].records and not polls[0].is_full:
                await self.clock.sleep(self.settings.linger_s)
                polls.append(await self._poll(source, flow, timeout_s=0.0))
            records = [record for poll in polls for record in poll.records]
            if records:
                await self.committer.open_journals(records)
                for poll in polls:
                    self.dispatch.admit(self._still_ours(poll))
                flow.note_load()
                self.telemetry.count("records_polled", len(records), stage=self.dispatch.stage)
                # A backlogged poll returns without giving others a turn.
                await asyncio.sleep(0)

    def _still_ours(self, poll: _Poll) -> Sequence[Record]:
        """Leave out what was read before a rebalance: its partition begins anew further back."""
        now, owned = self.dispatch.partitions, poll.owned
        if now == owned:  # nearly always
            return poll.records
        return [
            record
            for record in poll.records
            if now.get(record.topic_partition) is owned.get(record.topic_partition)
        ]

    async def _poll(
        self, source: EventSource, flow: _Flow, *, timeout_s: float | None = None
    ) -> _Poll:
        if timeout_s is None:
            timeout_s = _PAUSED_POLL_S if flow.paused else self.settings.poll_timeout_s
        limit = flow.poll_records()
        records: Sequence[Record] = ()
        try:
            records = await source.poll(limit, timeout_s)
        except DependencyDownError as error:
            if self.trouble is None:
                logger.warning(
                    "the log is away, polling on",
                    extra={"action": "source_away", "error": str(error)[:500]},
                )
            self.trouble = str(error)
            await self.clock.sleep(_RETRY_S)
        else:
            self.trouble = None
        return _Poll(records, dict(self.dispatch.partitions), len(records) >= limit)


class _Poll(NamedTuple):
    """What one poll gave, and whose the partitions were when it returned."""

    records: Sequence[Record]
    owned: Mapping[TopicPartition, Partition]
    is_full: bool


class _Flow:
    """Whether the buffer is full, with some play, and which partitions are paused."""

    def __init__(self, dispatch: Dispatch, settings: WorkerSettings) -> None:
        self._dispatch = dispatch
        self._settings = settings
        self.is_full = False
        self.room = asyncio.Event()
        self.paused: set[TopicPartition] = set()

    def note_load(self) -> None:
        if self._dispatch.queue.backlog >= self._settings.buffer_records:
            self.is_full = True
            self.room.clear()

    def note_room(self) -> None:
        if self.is_full and self._dispatch.queue.backlog <= self._settings.buffer_records // 2:
            self.is_full = False
            self.room.set()

    def poll_records(self) -> int:
        settings = self._settings
        if self.is_full:  # only priority topics flow
            return settings.poll_records
        room = settings.buffer_records - self._dispatch.queue.backlog
        return max(1, min(settings.poll_records, room))

    def apply(self, source: EventSource, now: float) -> bool:
        """Pause and resume what changed; return whether anything did."""
        wanted = self._wanted(now)
        if wanted == self.paused:
            return False
        source.pause(wanted - self.paused)
        # Also those that went elsewhere: a pause lasts until `resume`, beyond a rebalance.
        source.resume(self.paused - wanted)
        self.paused = wanted
        return True

    def _wanted(self, now: float) -> set[TopicPartition]:
        dispatch, breakers = self._dispatch, self._dispatch.breakers
        # With nothing queued to probe with, a record must come in to find the dependency back.
        can_probe = not dispatch.queue and breakers.admits(now)
        is_away = not breakers.all_closed and not can_probe
        priority, limit = self._settings.priority_topics, self._settings.held_records
        return {
            place
            for place, partition in dispatch.partitions.items()
            if is_away
            or (self.is_full and place.topic not in priority)
            or (partition.fenced and partition.held >= limit)
        }
