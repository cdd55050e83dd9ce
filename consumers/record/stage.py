"""Every derived event into the tables, in any order; the first of an id wins."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.ports import Inspections
from schemas.event import Event


class RecordStage:
    """Writes batches in one transaction each and publishes nothing (architecture.md section 2)."""

    name = "record"

    def __init__(self, inspections: Inspections) -> None:
        """Write into `inspections`."""
        self._inspections = inspections

    async def load(self, event: Event) -> Event:
        """Nothing to fetch: the event is what is kept."""
        return event

    def infer(self, items: Sequence[Event]) -> Sequence[Event]:
        """Nothing to compute."""
        return items

    async def save(self, event: Event, result: Event) -> None:
        """Write one event.

        Raises:
            DependencyDownError: `database`, away.
        """
        del result
        await self._inspections.save([event])

    async def save_all(self, events: Sequence[Event], results: Sequence[Event]) -> Sequence[None]:
        """Write a batch in one transaction.

        Raises:
            DependencyDownError: `database`, away.
        """
        del results
        await self._inspections.save(events)
        return [None] * len(events)
