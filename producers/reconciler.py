"""Brings back images whose events the log lost (architecture.md section 5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from pipeline.errors import LinesideError
from pipeline.ports import Clock, EventSink, Lease
from pipeline.reconciling import (
    STAGES_ASKED,
    DescribeProgress,
    LogProgress,
    Round,
    Unanswered,
    Waiting,
    groups_watched,
)
from pipeline.telemetry import NullTelemetry, Telemetry
from schemas.codec import encode

logger = logging.getLogger(__name__)

_RETRY_S = 5.0
# More would be a stage that never answers, which publishing again does not mend.
_MOST_TRIES = 3
_TRIES_KEPT = 50_000


@dataclass(frozen=True, slots=True)
class ReconcilerPace:
    """How gently it works.

    Attributes:
        tick_s: from one look to the next; at most `images` are published again in each.
        images: looked at in one round.
        after_s: how long an image must have waited; also the wait between two tries of one
            event, which doubles with each.
    """

    tick_s: float = 5.0
    images: int = 200
    after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class ReconcilerPorts:
    """Where it looks and publishes."""

    images: Unanswered
    progress: DescribeProgress
    sink: EventSink
    clock: Clock


class Page(NamedTuple):
    """Some of the images that wait, and where the next ones begin."""

    debts: Sequence[Waiting]
    following: str | None

    def of(self, stage: str) -> list[Waiting]:
        """Return what one stage owes."""
        return [debt for debt in self.debts if debt.stage == stage]


class Reconciler:
    """Publishes again, under the same event_id, what a stage can no longer find; a `Service`.

    Deterministic ids make everything downstream flow again, and the first event of an id wins:
    an image that comes twice is one image. What merely waits in a backlog is never touched.
    """

    name = "reconciler"

    def __init__(
        self,
        ports: ReconcilerPorts,
        *,
        source: str,
        pace: ReconcilerPace | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """`source` is the CloudEvents source of what is published again."""
        self._ports = ports
        self._source = source
        self._pace = pace or ReconcilerPace()
        self._telemetry = telemetry or NullTelemetry()
        # Each stage walks the waiting images at its own pace: one may stand before a backlog.
        self._cursors: dict[str, str | None] = dict.fromkeys(STAGES_ASKED)
        self._rounds: dict[str, Round] = {}
        # Per event how often it was published again, and when it may be the next time.
        self._tries: dict[UUID, tuple[int, float]] = {}

    def not_ready(self) -> Sequence[str]:
        """Never a reason: it mends what is rare."""
        return ()

    async def run(self) -> None:
        """Reconcile now and then, one process at a time, until cancelled."""
        while True:
            try:
                async with self._ports.images.reconcile_lease() as lease:
                    while True:
                        await self.tick(lease)
                        await self._ports.clock.sleep(self._pace.tick_s)
            except LinesideError as error:
                # Refused questions as well: mending what is rare must not end who takes images.
                self._rounds.clear()
                fields = {"action": "reconciler_waits", "reason": str(error)}
                logger.warning("lost images cannot be looked for now", extra=fields)
                await self._ports.clock.sleep(_RETRY_S)

    async def tick(self, lease: Lease) -> int:
        """Take one look; returns how many events were published again.

        Raises:
            TransientError: database or broker are away; nothing is lost by trying later.
        """
        pages = {cursor: await self._look(cursor) for cursor in set(self._cursors.values())}
        if not any(page.debts for page in pages.values()):
            self._rounds.clear()
            self._cursors = {stage: pages[at].following for stage, at in self._cursors.items()}
            return 0
        progress = await self._ports.progress(groups_watched())
        published = 0
        for stage in STAGES_ASKED:
            page = pages[self._cursors[stage]]
            ended = self._go_on(stage, page, progress)
            if ended is None:
                continue
            # Read again after the groups' progress: an answer may have come in between.
            fresh = await self._look(self._cursors[stage])
            lost = [debt for debt in fresh.of(stage) if ended.has(debt)]
            await lease.check()
            published += await self._bring_back(stage, lost)
            self._cursors[stage] = page.following
        return published

    def _go_on(self, stage: str, page: Page, progress: LogProgress) -> Round | None:
        """Begin a stage's round, or go on with it; returns the round if it ends with this."""
        one = self._rounds.pop(stage, None)
        if not page.of(stage):
            self._cursors[stage] = page.following
        elif one is None:
            self._rounds[stage] = Round(stage, page.of(stage), progress)
        else:
            one.step(progress)
            if one.is_over:
                return one
            if not one.is_void:
                self._rounds[stage] = one
        return None

    async def _look(self, cursor: str | None) -> Page:
        before = self._ports.clock.now() - timedelta(seconds=self._pace.after_s)
        debts, following = await self._ports.images.waiting(
            before, cursor=cursor, limit=self._pace.images
        )
        now_s = self._ports.clock.monotonic()
        may = [debt for debt in debts if self._may_try(debt.event.event_id, now_s)]
        return Page(may, following)

    def _may_try(self, event_id: UUID, now_s: float) -> bool:
        count, next_s = self._tries.get(event_id, (0, 0.0))
        return count < _MOST_TRIES and now_s >= next_s

    async def _bring_back(self, stage: str, lost: Sequence[Waiting]) -> int:
        now_s = self._ports.clock.monotonic()
        # Another stage may have asked for the same event a moment ago.
        events = [debt.event for debt in lost if self._may_try(debt.event.event_id, now_s)]
        if not events:
            return 0
        await self._ports.sink.publish([encode(event, source=self._source) for event in events])
        for event in events:
            self._note_try(event.event_id, now_s)
            fields = {
                "action": "reconciled",
                "stage": stage,
                "image_id": event.subject.image_id,
                "event_id": str(event.event_id),
                "type": event.type_name,
            }
            logger.warning("the log had lost an event, it is published again", extra=fields)
        self._telemetry.count("reconciled", len(events), stage=stage)
        return len(events)

    def _note_try(self, event_id: UUID, now_s: float) -> None:
        count = self._tries.pop(event_id, (0, 0.0))[0] + 1
        self._tries[event_id] = (count, now_s + self._pace.after_s * 2 ** (count - 1))
        while len(self._tries) > _TRIES_KEPT:
            del self._tries[next(iter(self._tries))]
        if count == _MOST_TRIES:
            fields = {"action": "reconciler_gives_up", "event_id": str(event_id)}
            logger.error("an event was published again in vain; look at its stage", extra=fields)
