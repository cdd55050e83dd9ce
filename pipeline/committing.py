"""Commits: explicit positions with the attempt journal beside them, one at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from pipeline.dispatch import Dispatch
from pipeline.errors import DependencyDownError, PoisonError, TransientError
from pipeline.ports import Clock, Commit, EventSource
from pipeline.telemetry import Telemetry
from pipeline.waiting import within
from pipeline.work import Partition, Work
from pipeline.worker_settings import WorkerSettings
from schemas.message import Record

logger = logging.getLogger(__name__)

# A commit that hangs must not outlast a drain; the positions go with the next one.
_LIMIT_S = 5.0


class Committer:
    """Commits for one worker through the source it has open."""

    def __init__(
        self, dispatch: Dispatch, clock: Clock, telemetry: Telemetry, settings: WorkerSettings
    ) -> None:
        """Commit what `dispatch` has settled."""
        self._dispatch = dispatch
        self._clock = clock
        self._telemetry = telemetry
        self._settings = settings
        self._lock = asyncio.Lock()
        self._source: EventSource | None = None
        self.settled = asyncio.Event()

    def use(self, source: EventSource | None) -> None:
        """Commit through `source`."""
        self._source = source

    async def run(self) -> None:
        """Commit what was settled, at once but not more often than the interval."""
        while True:
            await self.settled.wait()
            self.settled.clear()
            partitions = [one for one in self._dispatch.partitions.values() if not one.closed]
            if not await self.commit(partitions):
                self.settled.set()
            await self._clock.sleep(self._settings.commit_interval_s)

    async def commit(self, partitions: Collection[Partition], *, at_rest: bool = False) -> bool:
        """Commit the lowest unfinished offsets; return whether that went well.

        With `at_rest` the journal notes an orderly end.
        """
        async with self._lock:
            positions = {
                one: commit for one in partitions if (commit := one.next_commit(at_rest=at_rest))
            }
            return not positions or await self._send(positions)

    async def open_journals(self, records: Sequence[Record]) -> None:
        """Note a start of every partition that gets its first records, before any work."""
        partitions = self._dispatch.partitions
        starting: dict[Partition, Commit] = {}
        for record in records:
            one = partitions.get(record.topic_partition)
            if one is None or one.journal_is_open:
                continue
            one.journal_is_open = True
            offset = one.committed.offset if one.committed else record.offset
            starting[one] = Commit(offset, one.journal.open(offset))
        if not starting:
            return
        await self._send(starting)
        careful = {one: commit for one, commit in starting.items() if one.journal.is_careful}
        if careful:
            await self._set_horizons(careful)

    async def _set_horizons(self, careful: dict[Partition, Commit]) -> None:
        """Stay careful for as far as records may have been in flight when the process died."""
        settings = self._settings
        window = settings.buffer_records + settings.held_records + 4 * settings.batch_size
        try:
            ends = await self._source.end_offsets() if self._source else {}
        except DependencyDownError:
            ends = {}
        for one, commit in careful.items():
            farthest = commit.offset + window
            one.journal.horizon = min(farthest, ends.get(one.place, farthest))
            logger.warning(
                "partition goes one record at a time after crashes",
                extra={
                    "action": "journal_careful", "topic": one.place.topic,
                    "partition": one.place.partition, "offset": commit.offset,
                    "starts": one.journal.starts,
                },
            )  # fmt: skip
        self._dispatch.careful |= careful.keys()

    async def name(self, work: Work) -> None:
        """Commit the name of a record about to start.

        Raises:
            PoisonError: `crash_loop`; it was found at the scene too often.
            DependencyDownError: the name could not be written; the record must not start.
        """
        journal = work.partition.journal
        if journal.is_killer(work.offset):
            raise PoisonError(
                "crash_loop",
                f"the process died {journal.deaths[work.offset]} times while it held this record",
            )
        if not journal.is_careful:
            return
        journal.name(work.offset)
        if not await self.commit([work.partition]):
            raise DependencyDownError("log", "a name could not be committed before its record")

    async def _send(self, positions: dict[Partition, Commit]) -> bool:
        source = self._source
        if source is None:
            return False
        try:
            wanted = source.commit({one.place: commit for one, commit in positions.items()})
            error = None if await within(wanted, _LIMIT_S, self._clock) else "no answer"
        except TransientError as refusal:
            error = str(refusal)[:500]
        if error is not None:
            logger.warning(
                "positions are not committed, the records may be read again",
                extra={"action": "commit_failed", "error": error},
            )
            return False
        self._telemetry.count("commits", stage=self._dispatch.stage)
        for one, commit in positions.items():
            one.committed = commit
            if not one.journal.is_careful:
                self._dispatch.careful.discard(one)
        return True
