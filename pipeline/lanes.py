"""A bounded pool that takes work after work: no task per event (10-15 µs each, measured)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Step = Callable[[], Coroutine[Any, Any, None]]
Start = Callable[[Step], "asyncio.Task[None]"]


class Lanes(Generic[T]):
    """At most `width` tasks; one more starts only while another one is waiting on something."""

    def __init__(
        self,
        width: int,
        take: Callable[[], T | None],
        work: Callable[[T], Awaitable[None]],
    ) -> None:
        """`take` returns the next one or None; `work` handles every error of its own."""
        self._width = width
        self._take = take
        self._work = work
        self._busy: dict[asyncio.Task[None], T | None] = {}
        self._starting: asyncio.Task[None] | None = None
        self._start: Start | None = None

    def open(self, start: Start) -> None:
        """Run the lanes as tasks that `start` makes."""
        self._start = start
        self._busy.clear()
        self._starting = None

    def close(self) -> None:
        """Start no more tasks."""
        self._start = None

    def wake(self) -> None:
        """Say that there may be something to take."""
        if self._start is None or self._starting is not None or len(self._busy) >= self._width:
            return
        task = self._starting = self._start(self._run)
        self._busy[task] = None
        task.add_done_callback(self._ended)

    def abandon(self, is_lost: Callable[[T], bool]) -> None:
        """Cancel the lanes whose work is lost."""
        for task, current in list(self._busy.items()):
            if current is not None and is_lost(current):
                task.cancel()

    async def _run(self) -> None:
        self._starting = None
        task = asyncio.current_task()
        assert task is not None
        while (one := self._take()) is not None:
            self._busy[task] = one
            self.wake()
            await self._work(one)
        # At once, not in `_ended`: a wake-up between the two must not find all lanes taken.
        del self._busy[task]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._busy.pop(task, None)
        if task is self._starting:
            self._starting = None


async def spread(items: Iterable[T], work: Callable[[T], Awaitable[None]], width: int) -> None:
    """Await `work` for every item, at most `width` at once."""
    rest = deque(items)
    if len(rest) == 1:
        await work(rest.popleft())
        return

    async def lane(further: int) -> None:
        # It starts when this one waits on something, and finds nothing left if none ever does.
        if further and len(rest) > 1:
            group.create_task(lane(further - 1))
        while rest:
            await work(rest.popleft())

    async with asyncio.TaskGroup() as group:
        # The first at once, not behind whatever else the loop has to do.
        await lane(width - 1)
