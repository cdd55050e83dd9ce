"""What a reader lets in when partitions change hands under it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.memory.clock import VirtualClock
from pipeline.committing import Committer
from pipeline.dispatch import Dispatch
from pipeline.journal import Journal
from pipeline.ports import Commit
from pipeline.reading import Reader
from pipeline.telemetry import NullTelemetry
from pipeline.work import Partition
from pipeline.worker_settings import WorkerSettings
from schemas.message import Record, TopicPartition
from tests.worker_rig import IN, message, uploaded

RUNNING, STARTING = TopicPartition(IN, 0), TopicPartition(IN, 1)
SETTINGS = WorkerSettings()


def _records(place: TopicPartition, offsets: range) -> list[Record]:
    sent = message(uploaded("p"))
    return [Record(*place, offset, None, sent.value, sent.headers) for offset in offsets]


class Member:
    """A group member that a rebalance meets while it commits."""

    def __init__(self, dispatch: Dispatch, *polls: Sequence[Record]) -> None:
        self._dispatch = dispatch
        self._polls = list(polls)
        self.is_done = asyncio.Event()

    async def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        assert max_records > 0
        assert timeout_s > 0
        if not self._polls:
            self.is_done.set()
            await asyncio.Future()
        return self._polls.pop(0)

    async def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        if STARTING in offsets and len(self._polls) == 1:
            for place, offset in ((RUNNING, 10), (STARTING, 0)):
                self._dispatch.assign(Partition(place, Commit(offset), Journal()))


async def test_what_was_read_before_a_rebalance_does_not_stand_in_for_what_begins_anew() -> None:
    clock, telemetry = VirtualClock(), NullTelemetry()
    dispatch = Dispatch("embed", 4, clock, telemetry, SETTINGS)
    running = Partition(RUNNING, Commit(20), Journal())
    running.journal_is_open = True
    dispatch.assign(running)
    dispatch.assign(Partition(STARTING, Commit(0), Journal()))
    # The next generation stands at 10: what lay between was given back unstarted.
    former = [*_records(RUNNING, range(20, 25)), *_records(STARTING, range(1))]
    later = [*_records(RUNNING, range(10, 25)), *_records(STARTING, range(1))]
    member: Any = Member(dispatch, former, later)
    committer = Committer(dispatch, clock, telemetry, SETTINGS)
    committer.use(member)
    reader = Reader(dispatch, committer, clock, telemetry, SETTINGS)
    task = asyncio.create_task(reader.run(member))
    await asyncio.wait_for(member.is_done.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert dispatch.partitions[RUNNING].tracker.frontier == 10
    assert len(dispatch.queue) == len(later)
