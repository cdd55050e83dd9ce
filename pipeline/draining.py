"""Handing partitions over: the same order for a revoke, a stop and a SIGTERM."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Protocol

from pipeline.ports import Clock
from pipeline.waiting import wait_until
from pipeline.work import Partition

logger = logging.getLogger(__name__)


class Drainable(Protocol):
    """What a worker lends to `drain`."""

    def stop_intake(self, partitions: Collection[Partition]) -> None:
        """Start nothing more of these."""
        ...

    def abandon(self, partitions: Collection[Partition]) -> None:
        """Cancel what still runs for these partitions."""
        ...

    async def commit(self, partitions: Collection[Partition], *, at_rest: bool) -> None:
        """Commit their settled positions explicitly; a failure is logged, never raised."""
        ...

    def on_settled(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever a record leaves the worker; returns how to stop that."""
        ...


async def drain(
    worker: Drainable, partitions: Collection[Partition], *, budget_s: float, clock: Clock
) -> None:
    """Hand `partitions` over in order, outputs before offsets, within about `budget_s`.

    A crash between any two steps leads to redelivery with equal event ids, never to a loss.
    """
    # 1. Intake stops. What was read or loaded but not started goes back to the log.
    worker.stop_intake(partitions)
    # 2. Started work gets the budget; an event counts as settled once its output is acknowledged,
    #    so there is nothing left to flush.
    is_idle = await wait_until(
        lambda: not any(partition.started for partition in partitions),
        subscribe=worker.on_settled,
        timeout_s=budget_s,
        clock=clock,
    )
    # 3. What is not done by then is given up: cancelled, or its late result dropped.
    if not is_idle:
        logger.warning(
            "started work is abandoned and will be redelivered",
            extra={
                "action": "drain_abandoned",
                "records": sum(partition.started for partition in partitions),
            },
        )
    for partition in partitions:
        partition.closed = True
    worker.abandon(partitions)
    # 4. Commit the lowest unfinished offsets, noting that this end was orderly. 5. Leave.
    await worker.commit(partitions, at_rest=True)
