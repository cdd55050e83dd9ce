"""Who reads from the broker in memory: group members, and readers outside any group."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.errors import StalledError, TransientError
from pipeline.ports import AssignmentListener, Clock, Commit, EventSource, WitnessView
from pipeline.waiting import within
from schemas.message import Record, TopicPartition

if TYPE_CHECKING:
    from adapters.memory.broker import Group, MemoryBroker


class Cursor:
    """Positions in partitions, some of them paused."""

    def __init__(self, broker: MemoryBroker, clock: Clock) -> None:
        """Start with none."""
        self.positions: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.is_handing_over = False
        self.stalled: set[TopicPartition] = set()
        self._broker = broker
        self._clock = clock

    def take(self, max_records: int) -> list[Record]:
        """Return what is there now, in log order per partition."""
        found: list[Record] = []
        if self.is_handing_over:
            return found
        for place, position in self.positions.items():
            if place in self.paused or place in self.stalled or len(found) >= max_records:
                continue
            records = self._broker.read(place, position, max_records - len(found))
            if records:
                self.positions[place] = records[-1].offset + 1
                found += records
        if found:
            # The partition read first goes last next time, as a fetcher's buffers do.
            first = TopicPartition(found[0].topic, found[0].partition)
            self.positions[first] = self.positions.pop(first)
        return found

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """Return what is there, or comes within the time."""
        deadline = self._clock.monotonic() + timeout_s
        while True:
            self._broker.check_up()
            seen = self._broker.news
            records = self.take(max_records)
            left_s = deadline - self._clock.monotonic()
            if records or left_s <= 0:
                return records
            await within(self._broker.wait_for_news(seen), left_s, self._clock)


class GroupMember:
    """One member of a group (port `EventSource`)."""

    def __init__(
        self,
        broker: MemoryBroker,
        group: Group,
        topics: Collection[str],
        listener: AssignmentListener,
    ) -> None:
        """Nothing is assigned until the group says so."""
        self.topics = tuple(topics)
        self._broker = broker
        self._group = group
        self._listener = listener
        self._cursor = Cursor(broker, broker.clock)
        self._is_member = True
        self._is_current = False
        # A planned fault: joined, deaf and mute, as a client whose coordination froze.
        self.is_frozen = False

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """Return records of assigned partitions.

        Raises:
            DependencyDownError: the broker is down.
            StalledError: the group has lost this member.
        """
        if not self._is_member:
            raise StalledError("the group has lost this member; open a new one")
        if self.is_frozen:
            await self._broker.clock.sleep(timeout_s)
            return ()
        return await self._cursor.poll(max_records, timeout_s)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Return nothing of these until `resume`."""
        self._cursor.paused |= set(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Undo `pause`."""
        self._cursor.paused -= set(partitions)
        self._broker.tell_news()

    async def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        """Commit explicit positions.

        Raises:
            TransientError: the group has moved on, or the broker is down.
        """
        await asyncio.sleep(0)
        if self.is_frozen:
            await asyncio.Event().wait()
        self._broker.check_up()
        if not self._is_member or not self._is_current:
            raise TransientError("the group has moved on; nothing was committed")
        for place in offsets:
            if place not in self._cursor.positions:
                raise TransientError(f"{place} is not assigned; nothing was committed")
        for place, commit in offsets.items():
            self._broker.watch_commit(place, commit)
            self._group.committed[place] = commit
            self._broker.commits.append((self._group.name, place, commit))

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Next offset to be written of each assigned partition."""
        self._broker.check_up()
        return {place: self._broker.end(place) for place in self._cursor.positions}

    def view(self) -> WitnessView:
        """What an outsider sees of this member."""
        cursor = self._cursor
        return WitnessView(
            answers=True,
            is_stable=not cursor.is_handing_over,
            is_member=self in self._group.members,
            assigned=frozenset(cursor.positions),
            positions=dict(cursor.positions),
            ends={place: self._broker.end(place) for place in cursor.positions},
        )

    async def take(self, places: Mapping[TopicPartition, Commit | None]) -> None:
        """Get partitions from the group."""
        self._is_current = True
        self._cursor.is_handing_over = False
        starts = {place: commit.offset if commit else 0 for place, commit in places.items()}
        self._cursor.positions = {}
        await self._listener.assigned(places)
        self._cursor.positions = starts

    async def hand_over(self) -> None:
        """Give all partitions back; commits are taken until the listener has answered."""
        places = list(self._cursor.positions)
        if places:
            self._cursor.is_handing_over = True
            await self._listener.revoked(places)
        self._cursor.positions = {}
        self._is_current = False

    def expel(self) -> None:
        """Lose membership."""
        self._is_member = self._is_current = False
        self._broker.tell_news()


class MemberContext:
    """Joins and leaves."""

    def __init__(self, member: GroupMember, group: Group) -> None:
        """Do nothing yet."""
        self._member = member
        self._group = group

    async def __aenter__(self) -> EventSource:
        """Join the group."""
        await self._group.join(self._member)
        return self._member

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the group."""
        await self._group.leave(self._member)


class LogReader:
    """Reads whole topics outside any group (port `EventSource`); it never commits."""

    def __init__(
        self,
        broker: MemoryBroker,
        clock: Clock,
        topics: Collection[str],
        start: Mapping[TopicPartition, int] | str,
    ) -> None:
        """`start` is explicit offsets, `earliest` or `latest`."""
        self._broker = broker
        self._topics = tuple(topics)
        self._start = start
        self._cursor = Cursor(broker, clock)

    async def __aenter__(self) -> Self:
        """Stand at the start.

        Raises:
            StalledError: an explicit offset lies outside the log.
        """
        self._broker.check_up()
        for place in self._broker.places(self._topics):
            if self._start == "latest":
                self._cursor.positions[place] = self._broker.end(place)
            elif isinstance(self._start, str):
                self._cursor.positions[place] = 0
            else:
                offset = self._start.get(place, 0)
                if not 0 <= offset <= self._broker.end(place):
                    raise StalledError(f"offset {offset} lies outside {place}")
                self._cursor.positions[place] = offset
        self._broker.readers.append(self)
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Be open no more."""
        self._broker.readers.remove(self)

    def stall(self, *places: TopicPartition) -> None:
        """From now on bring nothing of these, all without an argument; polls say nothing of it."""
        self._cursor.stalled |= set(places or self._cursor.positions)

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """Return what is there, or comes within the time."""
        return await self._cursor.poll(max_records, timeout_s)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Return nothing of these until `resume`."""
        self._cursor.paused |= set(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Undo `pause`."""
        self._cursor.paused -= set(partitions)
        self._broker.tell_news()

    async def commit(self, _offsets: Mapping[TopicPartition, Commit]) -> None:
        """Refuse: a reader has no group.

        Raises:
            StalledError: always.
        """
        raise StalledError("a reader outside any group cannot commit")

    async def end_offsets(self) -> Mapping[TopicPartition, int]:
        """Next offset to be written of each partition."""
        self._broker.check_up()
        return {place: self._broker.end(place) for place in self._cursor.positions}
