"""Records on their way through the worker: their state, their key's order, their partition."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from datetime import datetime
from enum import Enum, auto
from typing import Any

from pipeline.journal import Journal
from pipeline.offsets import OffsetTracker
from pipeline.ports import Commit
from schemas.event import Event
from schemas.message import Message, Record, TopicPartition


class State(Enum):
    """Where a record is."""

    QUEUED = auto()  # waits to be loaded
    LOADING = auto()
    LOADED = auto()  # waits for earlier ones of its key
    READY = auto()  # may be computed
    STARTED = auto()  # given to infer, or beyond: a drain waits for it
    HELD = auto()  # waits for a time, or behind one of its key that does
    GONE = auto()  # settled, or given back to the log


class Work:
    """One record, and what became of it so far.

    `event` and `item` (what `load` returned, then the result of `infer`) are let go once the
    output is sealed in `message`; None is an output with nothing to publish.
    """

    __slots__ = (
        "attempts", "due", "error", "event", "first_attempt_at", "is_letter", "item", "line",
        "message", "offset", "partition", "record", "sequence", "state",
    )  # fmt: skip

    def __init__(self, record: Record, partition: Partition, line: KeyLine) -> None:
        """Start waiting."""
        self.record = record
        self.offset = record.offset
        self.partition = partition
        self.line = line
        self.state = State.QUEUED
        self.event: Event | None = None
        self.item: Any = None
        self.message: Message | None = None
        self.is_letter = False
        self.error: Exception | None = None
        self.attempts = 0
        self.due = 0.0
        self.sequence = 0
        self.first_attempt_at: datetime | None = None


class KeyLine:
    """Events of one key in one partition, in log order.

    What waits here was not released to compute yet. With a `fence` up (an event that failed and
    is tried again) the later ones wait behind it.
    """

    __slots__ = ("fence", "key", "unsettled", "waiting")

    def __init__(self, key: Hashable) -> None:
        """Start empty."""
        self.key = key
        self.waiting: deque[Work] = deque()
        self.unsettled = 0
        self.fence: Work | None = None

    def release(self, ready: Callable[[Work], None]) -> None:
        """Hand on those at the front that are loaded: none overtakes an earlier one."""
        waiting = self.waiting
        while waiting and waiting[0].state is State.LOADED:
            work = waiting.popleft()
            work.state = State.READY
            ready(work)

    def put_back(self, work: Work) -> None:
        """Let a released event wait again, in its place."""
        place = 0
        for other in self.waiting:
            if other is work:
                return
            if other.offset > work.offset:
                break
            place += 1
        self.waiting.insert(place, work)

    def remove(self, work: Work) -> None:
        """Let the others pass an event that will not be computed."""
        if work in self.waiting:
            self.waiting.remove(work)

    def overtakes(self, work: Work) -> bool:
        """Whether publishing `work` now would overtake an earlier event of its key."""
        return bool(self.waiting) and self.waiting[0].offset < work.offset

    def blocks(self, work: Work) -> bool:
        """Whether `work` must wait for the fence: it lies behind it. Earlier ones go on."""
        return self.fence is not None and work.offset > self.fence.offset


class Partition:
    """One partition in one generation: a new assignment makes a new one, old work cannot touch it.

    `closing` means that nothing more starts, `closed` that nothing counts any more.
    """

    def __init__(self, place: TopicPartition, committed: Commit | None, journal: Journal) -> None:
        """Start at the committed position."""
        self.place = place
        self.tracker = OffsetTracker(committed.offset if committed else None)
        self.journal = journal
        self.journal_is_open = False
        self.closing = False
        self.closed = False
        self.started = 0
        self.committed: Commit | None = committed
        self.fenced: set[KeyLine] = set()
        # Append times by offset, one a second: enough to tell how old the frontier is.
        self._appended: deque[tuple[int, int]] = deque()
        self._second = -1
        self._lines: dict[Hashable, KeyLine] = {}

    def admit(self, record: Record) -> Work | None:
        """Take a record in; None if this generation has it already."""
        if not self.tracker.admit(record.offset):
            return None
        if self.tracker.unfinished == 1:  # all before it is settled: their times tell nothing more
            self._appended.clear()
            self._second = -1
        if record.timestamp_ms // 1000 != self._second:
            self._second = record.timestamp_ms // 1000
            self._appended.append((record.offset, record.timestamp_ms))
        # Records without a key promise no order: each gets a line of its own.
        key: Hashable = record.offset if record.key is None else record.key
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = KeyLine(key)
        work = Work(record, self, line)
        line.unsettled += 1
        line.waiting.append(work)
        return work

    @property
    def oldest_ms(self) -> int | None:
        """Append time of the lowest unfinished record, to the second; None when none was read."""
        frontier, appended = self.tracker.frontier, self._appended
        while len(appended) > 1 and frontier is not None and appended[1][0] <= frontier:
            appended.popleft()
        return appended[0][1] if appended else None

    def settle(self, work: Work) -> None:
        """Note that a record is done for good."""
        self.tracker.finish(work.offset)
        line = work.line
        line.unsettled -= 1
        if not line.unsettled:
            del self._lines[line.key]

    def raise_fence(self, work: Work) -> None:
        """Let later events of this key wait until `work` is settled."""
        line = work.line
        line.put_back(work)
        if line.fence is None or work.offset < line.fence.offset:
            line.fence = work
        self.fenced.add(line)

    def lower_fence(self, work: Work) -> list[Work]:
        """Return what waited behind `work`, to be loaded now."""
        line = work.line
        if line.fence is not work:
            return []
        line.fence = None
        self.fenced.discard(line)
        freed = [other for other in line.waiting if other.state is State.HELD]
        for other in freed:
            other.state = State.QUEUED
        return freed

    def waiting(self) -> Iterator[Work]:
        """All that was not released to compute."""
        for line in self._lines.values():
            yield from line.waiting

    @property
    def held(self) -> int:
        """How many records wait for a failed one of their key, or for their time."""
        return sum(len(line.waiting) for line in self.fenced)

    def next_commit(self, *, at_rest: bool = False) -> Commit | None:
        """Return what is to be committed, None if that is committed already."""
        offset = self.tracker.frontier
        if offset is None:
            return None
        journal = self.journal
        commit = Commit(offset, journal.note_at_rest(offset) if at_rest else journal.note(offset))
        return None if commit == self.committed else commit
