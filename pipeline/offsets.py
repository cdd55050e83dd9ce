"""Which offsets are settled: a commit never passes unfinished work (architecture.md section 4)."""

from __future__ import annotations

from collections import deque


class OffsetTracker:
    """Offsets of one partition in one generation; knows no clock and no broker.

    Offsets are admitted in log order, may have gaps (compaction, transaction markers), and are
    finished in any order.
    """

    __slots__ = ("_finished_ahead", "_next", "_unfinished")

    def __init__(self, position: int | None = None) -> None:
        """`position` is the committed offset, None where nothing was ever committed."""
        self._next = position
        self._unfinished: deque[int] = deque()
        self._finished_ahead: set[int] = set()

    def admit(self, offset: int) -> bool:
        """Note a record that was read; False if this generation has already read past it."""
        if self._next is not None and offset < self._next:
            return False
        self._next = offset + 1
        self._unfinished.append(offset)
        return True

    def finish(self, offset: int) -> None:
        """Note that an admitted record is settled: its output is acknowledged, or it is buried."""
        unfinished = self._unfinished
        if not unfinished or unfinished[0] != offset:
            self._finished_ahead.add(offset)
            return
        unfinished.popleft()
        ahead = self._finished_ahead
        while unfinished and unfinished[0] in ahead:
            ahead.discard(unfinished.popleft())

    @property
    def frontier(self) -> int | None:
        """The lowest unfinished offset, the next one to read when all is finished."""
        return self._unfinished[0] if self._unfinished else self._next

    @property
    def has_unfinished(self) -> bool:
        """Whether the frontier is a record that was admitted."""
        return bool(self._unfinished)

    @property
    def ahead(self) -> int:
        """How many records beyond the frontier are settled: a crash now would repeat them."""
        return len(self._finished_ahead)

    @property
    def unfinished(self) -> int:
        """How many admitted records are not settled."""
        return len(self._unfinished) - len(self._finished_ahead)
