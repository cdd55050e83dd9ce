"""What a stage is: three verbs, IO and compute never mixed (architecture.md section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from schemas.event import Event

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Settled:
    """Returned by `load` when there is nothing to infer: `event` is published if there is one."""

    event: Event | None = None


class BatchStage(Protocol[Item, Result]):
    """A stage that computes on batches, on the worker's compute thread."""

    name: str

    async def load(self, event: Event) -> Item | Settled:
        """Fetch and decode; runs concurrently per event.

        Raises:
            PoisonError: the event can never succeed.
            TransientError: not now; `not_before` holds it without a counted attempt.
        """
        ...

    def infer(self, items: Sequence[Item]) -> Sequence[Result]:
        """Compute results of the same length, in the same order, equal for any batch size."""
        ...

    async def save(self, event: Event, result: Result) -> Event | None:
        """Make idempotent effects; return the enriched event, None to publish nothing."""
        ...


class BatchSavingStage(BatchStage[Item, Result], Protocol[Item, Result]):
    """A batch stage whose effects are cheaper together, such as rows in one transaction.

    The worker uses `save_all` where a stage has it. If it raises anything but an outage, each
    event of the batch is saved alone by `save`: effects must be idempotent, as ever.
    """

    async def save_all(
        self, events: Sequence[Event], results: Sequence[Result]
    ) -> Sequence[Event | None]:
        """As `save` for each, of the same length and in the same order."""
        ...


class SlotStage(Protocol[Item, Result]):
    """A stage whose inference waits on the network: K at once on the event loop."""

    name: str

    async def load(self, event: Event) -> Item | Settled:
        """As for `BatchStage`."""
        ...

    async def infer(self, item: Item) -> Result:
        """Compute one result; each item settles alone, so outputs of a key may change order."""
        ...

    async def save(self, event: Event, result: Result) -> Event | None:
        """As for `BatchStage`."""
        ...


Stage = BatchStage[Any, Any] | SlotStage[Any, Any]
