"""What was read and not started, requests before the backlog."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from pipeline.work import Work


class Lane:
    """A queue with two classes: works of priority topics leave first."""

    __slots__ = ("_backlog", "_priority", "_topics")

    def __init__(self, priority_topics: Iterable[str]) -> None:
        """Start empty."""
        self._topics = frozenset(priority_topics)
        self._priority: deque[Work] = deque()
        self._backlog: deque[Work] = deque()

    def __len__(self) -> int:
        """All that waits."""
        return len(self._priority) + len(self._backlog)

    @property
    def backlog(self) -> int:
        """What waits without priority."""
        return len(self._backlog)

    def append(self, work: Work) -> None:
        """Add at the end of its class."""
        if work.record.topic in self._topics:
            self._priority.append(work)
        else:
            self._backlog.append(work)

    def put_first(self, works: Iterable[Work]) -> None:
        """Add before all others of its class; the given order is kept."""
        for work in reversed(list(works)):
            if work.record.topic in self._topics:
                self._priority.appendleft(work)
            else:
                self._backlog.appendleft(work)

    def pop(self) -> Work | None:
        """Remove the next one, None when empty."""
        if self._priority:
            return self._priority.popleft()
        return self._backlog.popleft() if self._backlog else None
