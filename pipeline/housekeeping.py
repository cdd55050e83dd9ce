"""What the web role's housekeepers need of the tables: the sweep, and who watches the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import NamedTuple, Protocol

from pipeline.ports import Lease
from schemas.event import ImageEvent


class Reservations(Protocol):
    """Uploads that were begun and not finished: what the sweep mends."""

    async def unfinished(self, before: datetime, limit: int) -> Sequence[ImageEvent]:
        """Return the events given to `Outbox.reserve` before that time and still `storing`."""
        ...

    async def forget(self, image_id: str) -> None:
        """Drop a row that is still `storing`; an accepted or unknown one is left alone."""
        ...

    def sweep_lease(self) -> AbstractAsyncContextManager[Lease]:
        """Wait to be the only sweep (another lock than the relay's), and stay it."""
        ...


class OutboxBacklog(NamedTuple):
    """What waits for the relay; `oldest_at` is None when nothing does.

    `refused` rows were set aside, since they can never be published.
    """

    rows: int
    oldest_at: datetime | None
    refused: int = 0


class OutboxKeeping(Protocol):
    """What the outbox holds, and what it need not hold any longer."""

    async def backlog(self) -> OutboxBacklog:
        """Count the rows that wait, and those that were set aside."""
        ...

    async def prune(self, before: datetime, limit: int) -> int:
        """Drop the oldest rows that were published before then; returns how many, 0 at the end.

        Rows that were set aside stay.
        """
        ...


class RefusedRow(NamedTuple):
    """An outbox row that was set aside, since the broker's limits refuse it."""

    row_id: int
    event_id: str
    topic: str
    key: str | None
    size_bytes: int
    created_at: datetime
    reason: str


class RefusedRows(Protocol):
    """What was set aside, for a person to decide on."""

    async def refused_rows(self, limit: int) -> Sequence[RefusedRow]:
        """Return them, oldest first."""
        ...

    async def put_back(self, row_ids: Sequence[int]) -> int:
        """Let the relay try these again; returns how many were set aside until now."""
        ...
