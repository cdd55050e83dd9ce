"""When images came, in memory (port `Arrivals`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from adapters.memory.tables import ImageRow, MemoryTables
from pipeline.line import MOST_COUNTED, THINNED_COUNT, THINNED_S, Waiting
from pipeline.status import is_quiet


class MemoryArrivals:
    """`Arrivals` over `MemoryTables`."""

    def __init__(self, tables: MemoryTables) -> None:
        """Only assign."""
        self._tables = tables

    async def last(self, since: datetime) -> Mapping[str, datetime]:
        """Return when each source that sent anything since then sent its last image."""
        found: dict[str, datetime] = {}
        for row in self._counting(since):
            source, moment = row.subject.source, row.subject.received_at
            if source:
                found[source] = max(moment, found.get(source, moment))
        return found

    async def thinned(self, source: str, since: datetime) -> Sequence[datetime]:
        """Return a source's thinned arrivals, newest first; at most `THINNED_COUNT`."""
        mine = [r for r in self._counting(since) if r.subject.source == source]
        taken: list[datetime] = []
        for moment in sorted((row.subject.received_at for row in mine), reverse=True):
            if not taken or taken[-1] - moment >= timedelta(seconds=THINNED_S):
                taken.append(moment)
        return taken[:THINNED_COUNT]

    async def waiting(self, since: datetime, before: datetime) -> Waiting | None:
        """Return what was received in between and has no verdict; None if nothing."""
        open_rows = [
            row
            for row in self._counting(since)
            if row.subject.received_at < before
            and row.summary().status == "pending"
            and row.summary().verdict is None
        ]
        if not open_rows:
            return None
        oldest = min(open_rows, key=lambda row: row.subject.received_at).subject
        number = len(open_rows)
        return Waiting(
            oldest.image_id, oldest.received_at, min(number, MOST_COUNTED), number > MOST_COUNTED
        )

    def _counting(self, since: datetime) -> list[ImageRow]:
        rows = self._tables.accepted()
        return [
            row for row in rows if row.subject.received_at >= since and not is_quiet(row.subject)
        ]
