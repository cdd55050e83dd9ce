"""Readers outside any group that cannot stall unseen: what the log holds arrives.

A client's fetch can end without a word (aiokafka 718, 847, 983), and its polls then give nothing
for ever. So a reader asks now and then for the log's end: a partition that lies behind and did not
move since the last time is read anew, from where it stands, by a fresh reader.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self

from pipeline.ports import Clock, Commit, DescribeLog, EventSource, OpenReader
from schemas.message import Record, TopicPartition

logger = logging.getLogger(__name__)

# Seconds of waiting in `poll` between two looks at the log's end; a stall ends after two of them.
_LOOK_EVERY_S = 2.0
# Where fresh readers bring nothing either (an end of aborted transactions), try ever less often.
_LOOK_AT_LEAST_EVERY_S = 60.0


class SteadyOpenReader:
    """Opens readers that notice when they stall (port `OpenReader`)."""

    def __init__(
        self, open_reader: OpenReader, clock: Clock, describe_log: DescribeLog | None = None
    ) -> None:
        """`open_reader` is what is watched; `describe_log` tells of logs that hold nothing more."""
        self._open_reader = open_reader
        self._clock = clock
        self._describe_log = describe_log

    def __call__(
        self, topics: Collection[str], start: Mapping[TopicPartition, int] | str = "earliest"
    ) -> AbstractAsyncContextManager[EventSource]:
        """Read `topics`; errors are those of the reader that is watched."""
        return SteadyReader(
            self._open_reader, tuple(topics), start, self._clock, self._describe_log
        )


class SteadyReader:
    """One reader and its successors, each beginning where the one before ended."""

    def __init__(
        self,
        open_reader: OpenReader,
        topics: tuple[str, ...],
        start: Mapping[TopicPartition, int] | str,
        clock: Clock,
        describe_log: DescribeLog | None = None,
    ) -> None:
        """Use `SteadyOpenReader`."""
        self._describe_log = describe_log
        self._open_reader = open_reader
        self._topics = topics
        self._start = start
        self._clock = clock
        self._opened = AsyncExitStack()
        # Next offset to read; a partition that is not here is read from its start.
        self._positions: dict[TopicPartition, int] = {}
        # Where partitions begin of which nothing was read: all of it may be deleted by now.
        self._first: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._behind: dict[TopicPartition, int] = {}
        self._look_every_s = _LOOK_EVERY_S
        self._waited_s = 0.0

    async def __aenter__(self) -> Self:
        """Open the first reader."""
        source = self._open_reader(self._topics, self._start)
        self._source: EventSource = await self._opened.enter_async_context(source)
        if self._start == "latest":
            # Somewhat later than the reader began, but before anybody could rely on it.
            self._positions = dict(await self._source.end_offsets())
        elif not isinstance(self._start, str):
            self._positions = dict(self._start)
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the reader that is open."""
        await self._opened.aclose()

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """Return records in log order per partition, each once.

        Raises:
            DependencyDownError: the broker is away; call again.
            StalledError: the position fell out of the log; open a new reader.
        """
        if self._waited_s >= self._look_every_s:
            self._waited_s = 0.0
            await self._look_at_the_end()
        began = self._clock.monotonic()
        records = await self._source.poll(max_records, timeout_s)
        self._waited_s += self._clock.monotonic() - began
        for record in records:
            self._positions[record.topic_partition] = record.offset + 1
        return records

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Return nothing of these until `resume`."""
        self._paused |= set(partitions)
        self._source.pause(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Undo `pause`."""
        self._paused -= set(partitions)
        self._source.resume(partitions)

    async def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        """Refuse, as every reader without a group does."""
        await self._source.commit(offsets)

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Next offset to be written of each partition."""
        return await self._source.end_offsets()

    async def _look_at_the_end(self) -> None:
        ends = await self._source.end_offsets()
        behind = self._those_behind(ends)
        if any(self._behind.get(place) == at for place, at in behind.items()):
            await self._learn_starts(behind)
            behind = self._those_behind(ends)
        stalled = [place for place, at in behind.items() if self._behind.get(place) == at]
        self._behind = behind
        if stalled:
            await self._read_anew(stalled)
        elif not behind:
            self._look_every_s = _LOOK_EVERY_S

    def _those_behind(self, ends: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        positions = {**self._first, **self._positions}
        return {
            place: positions.get(place, 0)
            for place in ends.keys() - self._paused
            if positions.get(place, 0) < ends[place]
        }

    async def _learn_starts(self, places: Collection[TopicPartition]) -> None:
        """Ask where partitions begin that were never read, before they are held for stalled."""
        unread = set(places) - self._positions.keys()
        if unread and self._describe_log is not None:
            first = (await self._describe_log(self._topics)).first
            self._first.update((place, first[place]) for place in unread if place in first)

    async def _read_anew(self, stalled: Sequence[TopicPartition]) -> None:
        logger.warning(
            "the log has records that the reader does not bring, reading anew",
            extra={"action": "reader_reopened", "stalled": [f"{t}[{p}]" for t, p in stalled]},
        )
        self._behind = {}
        self._look_every_s = min(2 * self._look_every_s, _LOOK_AT_LEAST_EVERY_S)
        start = dict(self._positions) or self._start
        opened = AsyncExitStack()
        source = await opened.enter_async_context(self._open_reader(self._topics, start))
        source.pause(self._paused)
        former, self._opened, self._source = self._opened, opened, source
        await former.aclose()
