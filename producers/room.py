"""How much room there is for images on the way in, and what is said when there is none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pipeline.errors import RefusedError, TransientError
from pipeline.housekeeping import OutboxBacklog, OutboxKeeping
from pipeline.ports import Clock
from pipeline.telemetry import NullTelemetry, Telemetry

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_PRUNE_EVERY_S = 600.0
_PRUNE_ROWS = 500


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """When uploads are refused, and how long a published row is kept.

    Attributes:
        rows: of the outbox that may wait for the relay; checked once a second.
        free_bytes: of the disk that stay free, for broker, database and system.
        accept_without_broker: whether uploads are kept for later while the broker is away.
        keep_s: after which a published row is dropped. As long as it is there, an act sent again
            with its Idempotency-Key is told apart from a new one.
    """

    rows: int = 200_000
    free_bytes: int = 300_000_000
    accept_without_broker: bool = True
    keep_s: float = 14 * 86_400.0


class Room:
    """Watches outbox and disk, refuses before either is full, and prunes; a `Service`."""

    name = "room"

    def __init__(
        self,
        keeping: OutboxKeeping,
        free_bytes: Callable[[], int],
        *,
        clock: Clock,
        limits: RoomLimits | None = None,
        broker_away: Callable[[], bool] = lambda: False,
        telemetry: Telemetry | None = None,
    ) -> None:
        """`free_bytes` looks at the disk; it may block for a moment."""
        self._keeping = keeping
        self._free_bytes = free_bytes
        self._clock = clock
        self._limits = limits or RoomLimits()
        self._broker_away = broker_away
        self._telemetry = telemetry or NullTelemetry()
        self._backlog = OutboxBacklog(0, None)
        self._free: int | None = None
        self._next_prune_s = 0.0
        self._next_look_s = 0.0

    def not_ready(self) -> Sequence[str]:
        """Say why uploads are refused, when they are."""
        refusal = self._refusal()
        return [f"uploads are refused: {refusal.detail}"] if refusal else []

    def check(self) -> None:
        """Return if there is room for one more image.

        Raises:
            RefusedError: 507 `outbox_full` or `disk_nearly_full`, 503 `broker_away`.
        """
        refusal = self._refusal()
        if refusal is not None:
            raise refusal

    def _refusal(self) -> RefusedError | None:
        limits, rows, free = self._limits, self._backlog.rows, self._free
        if rows >= limits.rows:
            detail = (
                f"{rows} events wait for the broker, {limits.rows} may; an administrator must "
                "bring the broker back, or raise LINESIDE_WEB__OUTBOX_LIMIT_ROWS"
            )
            return RefusedError(507, "outbox_full", detail, retry_after_s=30)
        if free is not None and free < limits.free_bytes:
            detail = (
                f"{free // 1_000_000} MB of the server's disk are free, "
                f"{limits.free_bytes // 1_000_000} MB must stay so; free space on the server"
            )
            return RefusedError(507, "disk_nearly_full", detail, retry_after_s=30)
        if not limits.accept_without_broker and self._broker_away():
            detail = "the broker is away and nothing is kept for later here; send it again"
            return RefusedError(503, "broker_away", detail, retry_after_s=5)
        return None

    async def run(self) -> None:
        """Look once a second and prune now and then, until cancelled."""
        while True:
            try:
                await self.look()
                if self._clock.monotonic() >= self._next_prune_s:
                    self._next_prune_s = self._clock.monotonic() + _PRUNE_EVERY_S
                    await self.prune()
            except (TransientError, OSError) as error:  # a disk that went away has no size
                fields = {"action": "room_unknown", "reason": str(error)}
                logger.warning("outbox or disk cannot be looked at now", extra=fields)
            await self._clock.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Count what waits and what is free, and tell.

        Raises:
            DependencyDownError: `database`, away.
            OSError: the disk does not tell.
        """
        self._next_look_s = self._clock.monotonic() + _LOOK_EVERY_S
        was_refused = self._refusal() is not None
        self._free = await asyncio.to_thread(self._free_bytes)
        self._telemetry.gauge("disk_free_bytes", self._free)
        self._backlog = await self._keeping.backlog()
        oldest_at = self._backlog.oldest_at
        age_s = (self._clock.now() - oldest_at).total_seconds() if oldest_at else 0.0
        self._telemetry.gauge("outbox_pending", self._backlog.rows)
        self._telemetry.gauge("outbox_oldest_seconds", max(0.0, age_s))
        self._telemetry.gauge("outbox_refused", self._backlog.refused)
        refusal = self._refusal()
        if (refusal is not None) != was_refused:
            fields = {"action": "room_changed", "reason": refusal.detail if refusal else None}
            logger.warning("uploads are refused or taken again", extra=fields)

    async def prune(self) -> int:
        """Drop published rows past their time, a few at a time; returns how many.

        Raises:
            DependencyDownError: `database`, away.
            OSError: the disk does not tell.
        """
        before = self._clock.now() - timedelta(seconds=self._limits.keep_s)
        dropped = 0
        while count := await self._keeping.prune(before, _PRUNE_ROWS):
            dropped += count
            await self._clock.sleep(0.05)  # uploads come first
            if self._clock.monotonic() >= self._next_look_s:  # a million rows take minutes
                await self.look()
        if dropped:
            logger.info("old outbox rows dropped", extra={"action": "pruned", "rows": dropped})
        return dropped
