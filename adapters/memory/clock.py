"""A clock that moves only when a test moves it, or when nothing else is left to do."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sized
from datetime import UTC, datetime, timedelta

_START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
# Most turns of the event loop that are given to others before time moves on.
_MOST_TURNS = 10_000


class VirtualClock:
    """Time as a test wants it (port `Clock`)."""

    def __init__(self, start: datetime = _START) -> None:
        """Begin at `start`, aware UTC."""
        self._start = start
        self._elapsed_s = 0.0
        self._sequence = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Aware UTC."""
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was moved that far; zero gives others a turn."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sequence += 1
        heapq.heappush(self._sleepers, (self._elapsed_s + seconds, self._sequence, waiter))
        await waiter

    async def advance(self, seconds: float) -> None:
        """Move on, waking sleepers in order, each with its own time on the clock."""
        end = self._elapsed_s + seconds
        await self._settle()
        while self._next_due() <= end:
            self._wake_next()
            await self._settle()
        self._elapsed_s = end

    async def run_until(self, condition: Callable[[], bool], *, limit_s: float = 600.0) -> None:
        """Move on from wake-up to wake-up until `condition` holds.

        Raises:
            TimeoutError: it does not after `limit_s` of this clock, or nobody sleeps any more.
        """
        end = self._elapsed_s + limit_s
        while True:
            for _ in range(_MOST_TURNS):
                if condition():
                    return
                if await _is_quiet():
                    break
            if condition():
                return
            if self._next_due() > end:
                raise TimeoutError(f"the condition does not hold after {limit_s} s")
            self._wake_next()

    def _next_due(self) -> float:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else float("inf")

    def _wake_next(self) -> None:
        due, _, waiter = heapq.heappop(self._sleepers)
        self._elapsed_s = max(self._elapsed_s, due)
        if not waiter.done():
            waiter.set_result(None)

    @staticmethod
    async def _settle() -> None:
        for _ in range(_MOST_TURNS):
            if await _is_quiet():
                return


async def _is_quiet() -> bool:
    """Give others a turn; return whether nobody had anything to do."""
    await asyncio.sleep(0)
    # Not public, but nothing else says that every task waits: counting turns would only guess.
    ready: Sized = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    return not ready
