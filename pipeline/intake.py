"""What was read and not started, requests before the backlog."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable

from pipeline.work import Partition, Work


class _Queue:
    """First come, first served; what was given back keeps its place."""

    __slots__ = ("again", "fresh")

    def __init__(self) -> None:
        self.fresh: deque[Work] = deque()
        self.again: list[tuple[int, Work]] = []

    def __len__(self) -> int:
        return len(self.fresh) + len(self.again)

    def pop(self) -> Work | None:
        if self.again:
            return heapq.heappop(self.again)[1]
        return self.fresh.popleft() if self.fresh else None

    def remove(self, partition: Partition) -> list[Work]:
        again = [work for _, work in self.again if work.partition is partition]
        fresh = [work for work in self.fresh if work.partition is partition]
        if again:
            self.again = [row for row in self.again if row[1].partition is not partition]
            heapq.heapify(self.again)
        if fresh:
            self.fresh = deque(work for work in self.fresh if work.partition is not partition)
        return again + fresh


class Queues:
    """Two classes: works of priority topics leave first."""

    __slots__ = ("_backlog", "_priority", "_sequence", "_topics")

    def __init__(self, priority_topics: Iterable[str]) -> None:
        """Start empty."""
        self._topics = frozenset(priority_topics)
        self._priority = _Queue()
        self._backlog = _Queue()
        self._sequence = 0

    def __len__(self) -> int:
        """All that waits."""
        return len(self._priority) + len(self._backlog)

    @property
    def backlog(self) -> int:
        """What waits without priority."""
        return len(self._backlog)

    def append(self, work: Work) -> None:
        """Add at the end of its class; its first place is the one it keeps."""
        if not work.sequence:
            self._sequence += 1
            work.sequence = self._sequence
        self._of(work).fresh.append(work)

    def put_back(self, works: Iterable[Work]) -> None:
        """Add again, each in the place that it had."""
        for work in works:
            heapq.heappush(self._of(work).again, (work.sequence, work))

    def pop(self) -> Work | None:
        """Remove the next one, None when empty."""
        if self._priority.fresh or self._priority.again:
            return self._priority.pop()
        backlog = self._backlog
        if backlog.fresh and not backlog.again:  # nearly always
            return backlog.fresh.popleft()
        return backlog.pop()

    def remove(self, partition: Partition) -> list[Work]:
        """Remove and return all of one partition."""
        return self._priority.remove(partition) + self._backlog.remove(partition)

    def _of(self, work: Work) -> _Queue:
        return self._priority if work.record.topic in self._topics else self._backlog
