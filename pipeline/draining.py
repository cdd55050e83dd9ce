"""Taking partitions over and handing them over: one order for a revoke, a stop and a SIGTERM."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from pipeline.committing import Committer
from pipeline.dispatch import Dispatch
from pipeline.journal import Journal
from pipeline.ports import Clock, Commit
from pipeline.telemetry import Telemetry
from pipeline.waiting import wait_until
from pipeline.work import Partition
from pipeline.worker_settings import WorkerSettings
from schemas.message import TopicPartition

logger = logging.getLogger(__name__)


class Handover:
    """What a source tells of partitions (port `AssignmentListener`), and the drain.

    Attributes:
        has_joined: whether the group has answered once.
        budget_s: what started work gets; 0 once a step of the worker is broken.
        abandon: cancels what still runs for partitions that are gone.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        committer: Committer,
        clock: Clock,
        telemetry: Telemetry,
        settings: WorkerSettings,
    ) -> None:
        """Hand over what `dispatch` holds."""
        self._dispatch = dispatch
        self._committer = committer
        self._clock = clock
        self._telemetry = telemetry
        self._settings = settings
        self.has_joined = False
        self.budget_s = settings.drain_budget_s
        self.abandon: Callable[[Collection[Partition]], None] = lambda _: None

    async def assigned(self, partitions: Mapping[TopicPartition, Commit | None]) -> None:
        """Take partitions; their journals are opened with their first records."""
        self.has_joined = True
        for place, commit in partitions.items():
            journal = Journal.read(commit.metadata if commit else "", self._settings.journal)
            self._dispatch.assign(Partition(place, commit, journal))

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Finish what was started, within the budget, and hand the partitions over."""
        held = self._dispatch.partitions
        await self.drain([held[place] for place in partitions if place in held])

    async def drain(self, partitions: Collection[Partition] | None = None) -> None:
        """Hand `partitions` (all by default) over in order, outputs before offsets.

        A crash between any two steps leads to redelivery with equal event ids, never to a loss.
        """
        dispatch = self._dispatch
        going = list(dispatch.partitions.values() if partitions is None else partitions)
        started = self._clock.monotonic()
        # 1. Intake stops. What was read or loaded but not started goes back to the log.
        for partition in going:
            dispatch.stop_intake(partition)
        # 2. Started work gets the budget. An event counts as settled once its output is
        #    acknowledged, so nothing is left to flush after this.
        is_idle = await wait_until(
            lambda: not any(partition.started for partition in going),
            subscribe=dispatch.watch,
            timeout_s=self.budget_s,
            clock=self._clock,
        )
        # 3. What is not done by then is given up: cancelled, or its late result dropped.
        if not is_idle:
            logger.warning(
                "started work is abandoned and will be redelivered",
                extra={
                    "action": "drain_abandoned",
                    "records": sum(partition.started for partition in going),
                },
            )
        for partition in going:
            partition.closed = True
        self.abandon(going)
        # 4. The lowest unfinished offsets are committed, noting that this end was orderly.
        await self._committer.commit(going, at_rest=True)
        # 5. Nothing of this generation can touch the next one.
        dispatch.unassign(going)
        elapsed_s = self._clock.monotonic() - started
        self._telemetry.observe("drain_seconds", elapsed_s, stage=dispatch.stage)
