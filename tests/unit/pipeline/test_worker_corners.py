"""What rarely happens to a worker, and the small parts it is made of."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from adapters.memory.broker import MemoryBroker
from adapters.memory.clock import VirtualClock
from pipeline.burial import dead_letter
from pipeline.compute import ComputeThread, InlineCompute
from pipeline.dispatch import Dispatch
from pipeline.errors import DependencyDownError, StalledError, TransientError
from pipeline.journal import Journal
from pipeline.lanes import Lanes, spread
from pipeline.ports import AssignmentListener, Commit, EventSource
from pipeline.telemetry import METRICS, MetricName, NullTelemetry
from pipeline.waiting import Alarm, within
from pipeline.work import Partition
from pipeline.worker import Worker
from pipeline.worker_settings import WorkerSettings
from schemas.event import Event
from schemas.message import Record, TopicPartition
from tests.worker_rig import GROUP, IN, INLINE, Rig, ScriptedStage, embedded, message, uploaded

PLACE = TopicPartition(IN, 0)


class Unlisted(Event):
    """An event that no topic carries."""


async def test_an_output_without_a_topic_is_a_bug_of_its_stage() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    save = stage.save

    async def save_wrongly(event: Any, result: Any) -> Event | None:
        output = await save(event, result)
        if result != "b" or output is None:
            return output
        return Unlisted(event_id=output.event_id, occurred_at=output.occurred_at)

    stage.save = save_wrongly  # type: ignore[method-assign]  # a stage with a bug
    rig.send_parts("a", "b", "c")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a", "c"]
    assert rig.buried() == {"b": "bug"}


async def test_an_outage_while_saving_together_lets_the_whole_batch_wait() -> None:
    rig = Rig(partitions=1)

    class Together(ScriptedStage):
        async def save_all(self, events: Sequence[Any], results: Sequence[Any]) -> Sequence[Event]:
            if rig.clock.monotonic() < 60:
                raise DependencyDownError("database")
            return [embedded(event) for event in events]

    stage = Together()
    rig.send_parts("a", "b", "c")
    worker = rig.worker(stage)
    async with rig.running(worker):
        await rig.clock.advance(30)
        assert worker.not_ready() == ["embed: database is away since 2026-03-02 09:00:00Z"]
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a", "b", "c"]
    assert not stage.saves
    assert not rig.letters()


class _Hanging:
    """A member whose commits hang while `hangs` says so."""

    def __init__(self, source: EventSource, rig: Rig) -> None:
        self._source = source
        self._rig = rig
        self.hangs = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def commit(self, offsets: Mapping[TopicPartition, Commit]) -> None:
        if self.hangs:
            await asyncio.Future()
        await self._source.commit(offsets)


def _hanging_worker(rig: Rig, stage: ScriptedStage, members: list[_Hanging]) -> Worker:
    @asynccontextmanager
    async def opened(listener: AssignmentListener) -> AsyncIterator[Any]:
        async with rig.broker.open_source(GROUP, (IN,))(listener) as source:
            members.append(_Hanging(source, rig))
            yield members[-1]

    def open_source(listener: AssignmentListener) -> AbstractAsyncContextManager[EventSource]:
        return opened(listener)

    return Worker(stage, open_source, rig.broker, rig.clock, NullTelemetry(), INLINE)


async def test_a_commit_that_hangs_is_given_up_and_repeated() -> None:
    rig, stage, members = Rig(partitions=1), ScriptedStage(), list[_Hanging]()
    rig.send_parts("a")
    async with rig.running(_hanging_worker(rig, stage, members)):
        await rig.until(lambda: rig.outputs() == ["a"])
        await rig.clock.advance(20)
        assert rig.committed() is None
        members[0].hangs = False
        await rig.until(rig.all_committed, limit_s=20)


async def test_a_name_that_cannot_be_committed_keeps_its_record_from_starting() -> None:
    rig, stage, members = Rig(partitions=1), ScriptedStage(), list[_Hanging]()
    rig.broker.group(GROUP).committed[PLACE] = Commit(0, json.dumps({"starts": 2}))
    rig.send_parts("a", "b")
    async with rig.running(_hanging_worker(rig, stage, members)):
        await rig.clock.advance(120)
        assert not stage.loads
        members[0].hangs = False
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a", "b"]
    assert not rig.letters(), "an outage of the log counted attempts"


async def test_the_log_away_at_a_careful_start_leaves_the_widest_stretch_careful() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.broker.group(GROUP).committed[PLACE] = Commit(0, json.dumps({"starts": 5}))
    worker = rig.worker(stage)
    ends = 0

    async def no_ends(_self: Any) -> Mapping[TopicPartition, int]:
        nonlocal ends
        ends += 1
        raise DependencyDownError("log")

    async with rig.running(worker):
        await rig.clock.advance(1)
        (member,) = rig.broker.group(GROUP).members
        member.end_offsets = no_ends.__get__(member)  # type: ignore[method-assign]  # an outage
        rig.send_parts("a", "b", "c")
        await rig.until(rig.all_committed)
        assert ends
        rig.send_parts("d", "e")
        await rig.until(rig.all_committed)
    assert all(len(batch) == 1 for batch in stage.batches)


def _dispatch(clock: VirtualClock) -> Dispatch:
    return Dispatch("embed", 4, clock, NullTelemetry(), WorkerSettings())


def _record(offset: int, *, partition: int = 0) -> Record:
    sent = message(uploaded(f"p{offset}"))
    return Record(IN, partition, offset, None, sent.value, sent.headers)


def test_records_of_partitions_that_are_not_ours_are_not_taken() -> None:
    dispatch = _dispatch(VirtualClock())
    dispatch.assign(Partition(PLACE, Commit(3), Journal()))
    dispatch.admit([_record(3), _record(0, partition=1), _record(2), _record(4)])
    assert len(dispatch.queue) == 2, "a foreign or an older record was taken"


def test_a_partition_assigned_anew_starts_over_and_the_former_one_counts_no_more() -> None:
    dispatch = _dispatch(VirtualClock())
    former, later = (Partition(PLACE, Commit(0), Journal()) for _ in range(2))
    dispatch.assign(former)
    dispatch.admit([_record(0)])
    work = dispatch.next_to_load()
    assert work is not None
    dispatch.assign(later)
    dispatch.loaded(work)
    assert dispatch.in_flight == 0
    assert later.tracker.frontier == former.tracker.frontier == 0
    assert former.closed


def test_a_dead_letter_keeps_its_identity_on_redelivery_and_not_at_another_place() -> None:
    clock = VirtualClock()

    def identity(record: Record) -> object:
        partition = Partition(PLACE, None, Journal())
        work = partition.admit(record)
        assert work is not None
        error = ValueError("x" * 5000)
        letter = dead_letter(work, stage="embed", reason="bug", error=error, now=clock.now())
        assert len(letter.error_text) <= 2000
        return letter.event_id

    record = _record(7)
    assert identity(record) == identity(record)
    assert identity(record) != identity(record._replace(offset=8))


async def test_the_compute_thread_answers_and_raises_where_it_was_asked() -> None:
    compute = ComputeThread("compute-test")
    assert await compute.run(lambda one: one + 1, 1) == 2
    with pytest.raises(ZeroDivisionError):
        await compute.run(lambda: 1 // 0)
    compute.close()
    compute.close()
    assert await InlineCompute().run(max, 1, 2) == 2
    InlineCompute().close()


async def test_a_result_that_nobody_waits_for_any_more_is_dropped() -> None:
    compute = ComputeThread("compute-test")
    started, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(started.set)
        go_on.wait(10)

    task = asyncio.create_task(compute.run(work))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await compute.run(lambda: "next") == "next"
    compute.close()


async def test_no_more_lanes_run_than_allowed_and_one_is_enough_for_work_that_never_waits() -> None:
    gate = asyncio.Event()
    todo = list(range(50))
    running = most = 0

    async def work(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    started = 0
    async with asyncio.TaskGroup() as group:

        def start(step: Any) -> asyncio.Task[None]:
            nonlocal started
            started += 1
            return group.create_task(step())

        lanes = Lanes(5, lambda: todo.pop() if todo else None, work)
        lanes.wake()
        lanes.open(start)
        lanes.wake()
        for _ in range(30):
            await asyncio.sleep(0)
        assert most == 5
        gate.set()
        for _ in range(200):
            await asyncio.sleep(0)
        assert not todo
        assert not running
        assert started <= 6
        lanes.close()
        lanes.wake()


async def test_spreading_bounds_what_runs_at_once() -> None:
    running = most = 0

    async def work(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await spread(range(20), work, 3)
    assert most == 3


async def test_an_alarm_rings_at_the_earliest_of_its_times() -> None:
    clock, rings = VirtualClock(), list[float]()
    alarm = Alarm(clock, lambda: rings.append(clock.monotonic()))
    alarm.set(5.0)
    alarm.set(9.0)
    alarm.set(2.0)
    await clock.advance(10)
    assert rings == [2.0]
    alarm.set(12.0)
    alarm.cancel()
    await clock.advance(10)
    assert rings == [2.0]


async def test_waiting_within_a_time_cancels_what_takes_longer() -> None:
    clock = VirtualClock()
    never = asyncio.get_running_loop().create_future()
    turn = asyncio.create_task(within(never, 3.0, clock))
    await clock.advance(4)
    assert await turn is False
    assert never.cancelled()
    assert await within(asyncio.sleep(0), 3.0, clock)


async def test_a_virtual_clock_says_when_it_waits_in_vain() -> None:
    with pytest.raises(TimeoutError):
        await VirtualClock().run_until(lambda: False, limit_s=5)


async def test_a_reader_outside_any_group_reads_from_where_it_was_told_and_commits_nothing() -> (
    None
):
    broker = MemoryBroker(VirtualClock(), partitions=1)
    for number in range(3):
        broker.append(message(uploaded(f"p{number}")))
    async with broker.open_reader([IN], {PLACE: 1}) as reader:
        assert [record.offset for record in await reader.poll(10, 0)] == [1, 2]
        assert await reader.end_offsets() == {PLACE: 3}
        with pytest.raises(StalledError):
            await reader.commit({PLACE: Commit(1)})
    async with broker.open_reader([IN], "latest") as reader:
        broker.append(message(uploaded("new")))
        reader.pause([PLACE])
        assert not await reader.poll(10, 0)
        reader.resume([PLACE])
        assert [record.offset for record in await reader.poll(10, 0)] == [3]


async def test_commits_of_partitions_that_are_not_assigned_are_refused() -> None:
    rig = Rig(partitions=1)
    worker = rig.worker(ScriptedStage())
    async with rig.running(worker):
        await rig.clock.advance(1)
        (member,) = rig.broker.group(GROUP).members
        with pytest.raises(TransientError):
            await member.commit({TopicPartition("elsewhere", 0): Commit(1)})


class _Notes(NullTelemetry):
    def __init__(self) -> None:
        self.seen: dict[MetricName, set[tuple[str, ...]]] = {}
        self.sums: dict[MetricName, float] = {}

    def count(self, name: MetricName, n: float = 1, **labels: str) -> None:
        self.seen.setdefault(name, set()).add(tuple(sorted(labels)))
        self.sums[name] = self.sums.get(name, 0) + n

    def gauge(self, name: MetricName, value: float, **labels: str) -> None:
        self.count(name, 0, **labels)

    def observe(self, name: MetricName, value: float, **labels: str) -> None:
        self.count(name, value, **labels)


async def test_measurements_carry_the_labels_of_their_row_and_the_sums_are_right() -> None:
    rig, stage, notes = Rig(partitions=1), ScriptedStage(), _Notes()
    failures = iter([TransientError(), DependencyDownError("objects"), KeyError()])
    stage.fault_in_load = lambda part: next(failures, None) if part == "a" else None
    stage.fault_in_save = lambda part: ValueError() if part == "z" else None
    rig.send_parts("a", "b", "z")
    source = rig.broker.open_source(GROUP, (IN,))
    worker = Worker(stage, source, rig.broker, rig.clock, notes, INLINE)
    async with rig.running(worker):
        await rig.until(rig.all_committed)
    for name, labels in notes.seen.items():
        assert labels == {tuple(sorted(METRICS[name].labels))}, name
    assert notes.sums["records_polled"] == 3
    assert notes.sums["events_settled"] == 2
    assert notes.sums["dead_letters"] == 1
    assert notes.sums["events_retried"] == 4
    assert {"lag_records", "breaker_open", "batch_items", "commits", "drain_seconds"} <= set(
        notes.seen
    )
