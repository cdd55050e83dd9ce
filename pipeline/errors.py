"""What can go wrong, and which way the event goes then.

LinesideError
├── PoisonError      the event itself is at fault        → dead letter, now
├── TransientError   the world is at fault, for now      → held in key order, retried
│   └── DependencyDownError  a whole dependency is away  → breaker opens, attempts not counted
│       └── StorageFullError its disk is full            → as above; uploads answer 507
├── StalledError     the worker cannot go on             → stop, lose nothing
├── ConfigError      a setting is wrong                  → one line, no start
├── ConflictError    somebody else changed it first      → 409
└── RefusedError     a request cannot be served          → RFC 9457 problem
"""

from __future__ import annotations

from datetime import datetime


class LinesideError(Exception):
    """Something Lineside knows how to name."""

    def __init__(self, message: str = "") -> None:
        """Take the class's docstring as the message when none is given."""
        super().__init__(message or (self.__doc__ or "").strip())


class PoisonError(LinesideError):
    """This event can never succeed: correct its sender, then replay the dead letter."""

    def __init__(self, reason: str, message: str = "") -> None:
        """`reason` is a stable slug such as `sha256_mismatch`."""
        super().__init__(message)
        self.reason = reason


class TransientError(LinesideError):
    """Try again later; nothing to do unless it lasts.

    With `not_before` (aware UTC) the event waits until then without an attempt being counted.
    """

    def __init__(self, message: str = "", *, not_before: datetime | None = None) -> None:
        """Keep the earliest time of the next try."""
        super().__init__(message)
        self.not_before = not_before


class DependencyDownError(TransientError):
    """A dependency is away: start it or correct its address; work resumes by itself."""

    def __init__(self, dependency: str, message: str = "") -> None:
        """`dependency` names what is away: `objects`, `database`, `llm`."""
        super().__init__(message)
        self.dependency = dependency


class StorageFullError(DependencyDownError):
    """The disk is full: free space or enlarge it; work resumes by itself."""


class StalledError(LinesideError):
    """The worker cannot go on and stops without losing anything; start it again."""


class ConfigError(LinesideError):
    """A setting is wrong; the message names it, its value and what is allowed."""


class ConflictError(LinesideError):
    """It was changed by somebody else meanwhile; load it again and repeat the change."""


class RefusedError(LinesideError):
    """A request that cannot be served as it is (RFC 9457): `detail` says what to do."""

    def __init__(
        self, status: int, slug: str, detail: str, *, retry_after_s: int | None = None
    ) -> None:
        """`status` is the HTTP code, `slug` the problem's stable type."""
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.retry_after_s = retry_after_s
