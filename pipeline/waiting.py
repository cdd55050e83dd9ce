"""Waiting for a condition with a deadline, on the clock that tests own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pipeline.ports import Clock


async def within(awaitable: Awaitable[object], timeout_s: float, clock: Clock) -> bool:
    """Return whether `awaitable` ended in time; it is cancelled otherwise, its error raised."""
    work = asyncio.ensure_future(awaitable)
    timer = asyncio.ensure_future(clock.sleep(max(0.0, timeout_s)))
    try:
        await asyncio.wait({work, timer}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
            return True
        return False
    finally:
        for task in (work, timer):
            task.cancel()


async def wait_until(
    condition: Callable[[], bool],
    *,
    subscribe: Callable[[Callable[[], None]], Callable[[], None]],
    timeout_s: float,
    clock: Clock,
) -> bool:
    """Return whether `condition` came true in time; it is looked at on every callback."""
    changed = asyncio.Event()
    unsubscribe = subscribe(changed.set)
    deadline = clock.monotonic() + timeout_s
    try:
        while not condition():
            changed.clear()
            left_s = deadline - clock.monotonic()
            if left_s <= 0 or not await within(changed.wait(), left_s, clock):
                return condition()
        return True
    finally:
        unsubscribe()


class Alarm:
    """Calls back at the earliest of the times it was set to."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        """`ring` is called on the event loop and must not raise."""
        self._clock = clock
        self._ring = ring
        self._due: float | None = None
        self._task: asyncio.Task[None] | None = None

    def set(self, due: float) -> None:
        """Ring at the monotonic time `due` at the latest."""
        if self._due is not None and self._due <= due:
            return
        self.cancel()
        self._due = due
        self._task = asyncio.get_running_loop().create_task(self._wait(due))

    def cancel(self) -> None:
        """Ring no more."""
        if self._task is not None:
            self._task.cancel()
        self._task = self._due = None

    async def _wait(self, due: float) -> None:
        # A sleep may end a little early; ringing then would find nothing due, and ring no more.
        while (left_s := due - self._clock.monotonic()) > 0:
            await self._clock.sleep(max(left_s, 0.001))
        self._task = self._due = None
        self._ring()
