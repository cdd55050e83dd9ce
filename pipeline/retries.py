"""What a failure leads to, and when a held event is tried again; pure, time is passed in."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from pipeline.errors import DependencyDownError, PoisonError, TransientError
from schemas.codec import MalformedEventError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ladder:
    """Delays between tries: exponential, and over within a minute (0.2 s ... 25.6 s: 51 s)."""

    first_s: float = 0.2
    factor: float = 2.0
    rungs: int = 8

    def delay_s(self, attempts: int) -> float | None:
        """Seconds to wait after that many failed attempts (from 1), None past the last rung."""
        if attempts > self.rungs:
            return None
        return self.first_s * self.factor ** (attempts - 1)


class Wait(NamedTuple):
    """Hold the event and try again."""

    delay_s: float
    counted: bool


class Bury(NamedTuple):
    """Publish a dead letter."""

    reason: str


class Outage(NamedTuple):
    """Open the breaker of a dependency; the event goes back, no attempt is counted."""

    dependency: str


def decide(
    error: Exception, *, attempts: int, now: datetime, ladder: Ladder, bug_tries: int
) -> Wait | Bury | Outage:
    """Return what a failed attempt leads to.

    Args:
        error: what `load`, `infer`, `save` or the codec raised.
        attempts: counted attempts, this one included, from 1.
        now: aware UTC.
        ladder: delays of transient failures and of bugs.
        bug_tries: how often an exception without a name in `pipeline.errors` is tried.
    """
    match error:
        case PoisonError(reason=reason) | MalformedEventError(reason=reason):
            return Bury(reason)
        case DependencyDownError(dependency=dependency):
            return Outage(dependency)
        case TransientError(not_before=datetime() as due) if due > now:
            return Wait((due - now).total_seconds(), counted=False)
        case TransientError():
            delay_s, reason = ladder.delay_s(attempts), "retries_exhausted"
        case _:
            delay_s, reason = ladder.delay_s(attempts) if attempts < bug_tries else None, "bug"
    return Bury(reason) if delay_s is None else Wait(delay_s, counted=True)


class Held(Generic[T]):
    """Events that wait for a time, earliest first."""

    def __init__(self) -> None:
        """Start empty."""
        self._heap: list[tuple[float, int, T]] = []
        self._sequence = 0

    def add(self, entry: T, due: float) -> None:
        """Hold until the monotonic time `due`."""
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, entry))

    def pop_due(self, now: float) -> Iterator[T]:
        """Remove and yield what is due."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

    @property
    def next_due(self) -> float | None:
        """When the earliest is due, None when nothing is held."""
        return self._heap[0][0] if self._heap else None
