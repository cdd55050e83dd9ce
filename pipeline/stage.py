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

    async def save(self, event: Event, result: Result) -> Event:
        """Make idempotent effects and return the enriched event."""
        ...


class SlotStage(Protocol[Item, Result]):
    """A stage whose inference waits on the network: K at once on the event loop."""

    name: str

    async def load(self, event: Event) -> Item | Settled:
        """As for `BatchStage`."""
        ...

    async def infer(self, item: Item) -> Result:
        """Compute one result; each item settles alone."""
        ...

    async def save(self, event: Event, result: Result) -> Event:
        """As for `BatchStage`."""
        ...


Stage = BatchStage[Any, Any] | SlotStage[Any, Any]
