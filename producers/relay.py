"""Outbox rows to topics: one relay at a time, one batch in flight, in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from pipeline.errors import PoisonError, TransientError
from pipeline.ports import Clock, EventSink, Lease, Outbox, OutboxRow

logger = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 2.0
_ANOTHER_RELAYS_AFTER_S = 2.0
# The lease is given up and taken anew this often, since a fence lapses with the weeks.
_LEASE_S = 86_400.0


async def no_fence() -> None:
    """Keep nobody out (for a sink whose batches are never late)."""


class Relay:
    """Publishes what the outbox holds, at least once; `wake` after each append.

    Rows written by another process are found by a poll. A batch that fails stops the relay
    until it succeeds: later rows never overtake it (streaming.md section 10). Only a message that
    can never be published is set aside for good. A relay that lost its
    lease sends nothing any more; what it had in flight the next relay sends again, first of all,
    and `take_over` keeps it from landing after that.
    """

    name = "relay"

    def __init__(
        self,
        outbox: Outbox,
        sink: EventSink,
        *,
        clock: Clock,
        poll_s: float = 1.0,
        batch: int = 200,
        take_over: Callable[[], Awaitable[None]] = no_fence,
    ) -> None:
        """`take_over` makes the sink refuse what former holders of the lease have on its way."""
        self._outbox = outbox
        self._sink = sink
        self._clock = clock
        self._poll_s = poll_s
        self._batch = batch
        self._take_over = take_over
        self._news = asyncio.Event()
        self._trouble: str | None = None
        self._waits_since_s: float | None = None

    def wake(self) -> None:
        """Tell that there are new rows; call it on the relay's event loop."""
        self._news.set()

    def not_ready(self) -> Sequence[str]:
        """Say why rows wait, when they do.

        One who waits for the lease says nothing: another relay is at work, and speaks for itself.
        """
        since_s = self._waits_since_s
        if since_s is not None and self._clock.monotonic() - since_s > _ANOTHER_RELAYS_AFTER_S:
            return []
        return [self._trouble] if self._trouble else []

    async def run(self) -> None:
        """Relay until cancelled; what was published and not marked is published again."""
        failures = 0
        while True:
            self._waits_since_s = self._clock.monotonic()
            try:
                async with self._outbox.lease() as lease:
                    self._waits_since_s = None
                    await self._take_over()
                    until_s = self._clock.monotonic() + _LEASE_S
                    while self._clock.monotonic() < until_s:
                        self._news.clear()
                        await self._drain(lease)
                        failures = 0
                        self._end_trouble()
                        await self._wait_for_news()
            except TransientError as error:
                # The lease goes too: if the database is what failed, the lock may be lost.
                self._waits_since_s = None
                failures += 1
                if self._trouble is None:  # once: an outage of hours is tried every two seconds
                    fields = {"action": "relay_waits", "reason": str(error)}
                    logger.warning("outbox rows cannot be published now", extra=fields)
                self._trouble = f"relay: events wait in the outbox: {error}"
                await self._clock.sleep(min(_LONGEST_PAUSE_S, 0.1 * 2 ** min(failures, 10)))

    def _end_trouble(self) -> None:
        if self._trouble is not None:
            logger.info("outbox rows are published again", extra={"action": "relay_goes_on"})
        self._trouble = None

    async def _drain(self, lease: Lease) -> None:
        while rows := await self._outbox.pending(self._batch):
            # After the rows were read and before they are sent: another relay, to which the lease
            # may have gone, begins with these same rows, so that nothing overtakes them.
            await lease.check()
            try:
                await self._publish(rows)
            except PoisonError:
                # Nothing of the batch was published. One of it can never be; the others go.
                await self._one_by_one(rows, lease)

    async def _publish(self, rows: Sequence[OutboxRow]) -> None:
        positions = await self._sink.publish([row.message for row in rows])
        pairs = zip(rows, positions, strict=True)
        await self._outbox.mark_published({row.row_id: position for row, position in pairs})

    async def _one_by_one(self, rows: Sequence[OutboxRow], lease: Lease) -> None:
        for row in rows:
            await lease.check()
            try:
                await self._publish([row])
            except PoisonError as error:
                await self._outbox.set_aside(row.row_id, f"{error.reason}: {error}")
                fields = {
                    "action": "outbox_row_refused",
                    "row_id": row.row_id,
                    "topic": row.message.topic,
                    "key": (row.message.key or b"").decode("utf-8", "replace"),
                    "reason": str(error),
                }
                told = "an event can never be published and is set aside"
                logger.error(told, extra=fields)  # noqa: TRY400 - the reason says all

    async def _wait_for_news(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._news.wait()
