"""Outages: a breaker per dependency, a half-open probe that closes it; pure, time is passed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProbePace:
    """How long a breaker stays open before it lets one event try, in seconds, doubling."""

    first_s: float = 0.25
    longest_s: float = 5.0


class Breaker:
    """One dependency: closed, open until a time, or half-open with one probe under way."""

    __slots__ = ("_outages", "_pace", "_retry_at", "since")

    def __init__(self, pace: ProbePace) -> None:
        """Start closed."""
        self._pace = pace
        self._outages = 0
        self._retry_at: float | None = None
        self.since = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether work flows."""
        return self._retry_at is None

    @property
    def retry_at(self) -> float:
        """When a probe may go, monotonic seconds; the past when closed."""
        return self._retry_at or 0.0

    def trip(self, now: float) -> None:
        """Note a failure; those of work that was under way when it opened change nothing."""
        if self._retry_at is not None and now < self._retry_at:
            return
        if self._retry_at is None:
            self.since = now
        delay_s = min(self._pace.first_s * 2**self._outages, self._pace.longest_s)
        self._outages = min(self._outages + 1, 32)
        self._retry_at = now + delay_s

    def close(self) -> None:
        """Note that the dependency answered."""
        self._retry_at = None
        self._outages = 0


class Breakers:
    """All dependencies of a worker; work flows when every one of them is closed."""

    def __init__(self, pace: ProbePace) -> None:
        """Start with none known."""
        self._pace = pace
        self._by_name: dict[str, Breaker] = {}
        self._probe: object | None = None
        self.all_closed = True

    def trip(self, dependency: str, now: float, culprit: object) -> float:
        """Open the breaker of `dependency`; return when the next probe may go."""
        breaker = self._by_name.setdefault(dependency, Breaker(self._pace))
        breaker.trip(now)
        if culprit is self._probe:
            self._probe = None
        self.all_closed = False
        return max(one.retry_at for one in self._by_name.values())

    @property
    def retry_at(self) -> float | None:
        """When the next probe may go, None when all are closed."""
        if self.all_closed:
            return None
        return max(one.retry_at for one in self._by_name.values())

    def admits(self, now: float) -> bool:
        """Whether an event may start: all closed, or it is time for the one probe."""
        if self.all_closed:
            return True
        return self._probe is None and now >= (self.retry_at or 0.0)

    def started(self, work: object) -> None:
        """Note that `work` was admitted; while not all are closed it is the probe."""
        if not self.all_closed:
            self._probe = work

    def answered(self, work: object) -> bool:
        """Note an outcome that is no outage; True if `work` was the probe and all closed again."""
        if work is not self._probe:
            return False
        self._probe = None
        for breaker in self._by_name.values():
            breaker.close()
        self.all_closed = True
        return True

    def dropped(self, work: object) -> None:
        """Note that `work` left without an outcome; if it was the probe, another one may go."""
        if work is self._probe:
            self._probe = None

    def open_since(self) -> list[tuple[str, float]]:
        """Dependencies that are away, and when each went, monotonic seconds."""
        return [(name, one.since) for name, one in self._by_name.items() if not one.is_closed]

    def open_names(self) -> list[str]:
        """Dependencies that are away."""
        return [name for name, breaker in self._by_name.items() if not breaker.is_closed]
