"""G19 in one process: the gauges of a worker, on a clock that the test owns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import pairwise

from pipeline.errors import DependencyDownError, TransientError
from pipeline.loop_lag import LoopLag
from pipeline.ports import NextRecord
from pipeline.reporting import REPORT_EVERY_S
from pipeline.telemetry import MetricName, NullTelemetry
from pipeline.worker import Worker
from pipeline.worker_settings import WorkerSettings
from schemas.message import TopicPartition
from tests.worker_rig import GROUP, IN, INLINE, Rig, ScriptedStage, SlotScriptedStage


class Gauges(NullTelemetry):
    """Keeps the last value of each gauge."""

    def __init__(self) -> None:
        self.now: dict[MetricName, float] = {}

    def gauge(self, name: MetricName, value: float, **_: str) -> None:
        self.now[name] = value


class MeasuredRig(Rig):
    """A rig whose workers tell how they are."""

    def __init__(self, *, partitions: int = 1) -> None:
        super().__init__(partitions=partitions)
        self.gauges = Gauges()
        self.looks = 0

    async def peek(
        self, places: Mapping[TopicPartition, int | None]
    ) -> Mapping[TopicPartition, NextRecord]:
        self.looks += 1
        found = {}
        for place, offset in places.items():
            for record in self.broker.read(place, offset or 0, 1):
                found[place] = NextRecord(record.offset, record.timestamp_ms)
        return found

    def measured(self, stage: ScriptedStage, settings: WorkerSettings = INLINE) -> Worker:
        source = self.broker.open_source(GROUP, (IN,))
        worker = Worker(stage, source, self.broker, self.clock, self.gauges, settings)
        worker.peek = self.peek
        return worker

    async def reported(self) -> dict[MetricName, float]:
        """Gauges after two more reports: the second one looks at what the first found unread."""
        await self.clock.advance(2 * REPORT_EVERY_S + 0.1)
        return self.gauges.now


async def test_age_and_lag_are_those_of_the_lowest_record_that_is_not_settled() -> None:
    rig, stage = MeasuredRig(), ScriptedStage()
    stage.fault_in_load = lambda part: TransientError() if part == "held" else None
    rig.send_parts("held")
    await rig.clock.advance(40)
    rig.send_parts("a", station="A")
    rig.send_parts("b", station="B")
    async with rig.running(rig.measured(stage)):
        now = await rig.reported()
        assert 49 <= now["oldest_age_seconds"] <= 51.2
        assert (now["lag_records"], now["records_settled_ahead"]) == (3, 2)
        assert now["records_held"] == 1
        stage.fault_in_load = lambda _: None
        await rig.until(rig.all_committed)
        now = await rig.reported()
        assert (now["oldest_age_seconds"], now["lag_records"]) == (0, 0)
        assert (now["records_settled_ahead"], now["records_held"]) == (0, 0)


async def test_age_falls_as_a_backlog_is_worked_off() -> None:
    rig, stage = MeasuredRig(), SlotScriptedStage()

    async def slow(_: str) -> None:
        await rig.clock.sleep(10)

    stage.during_infer = slow
    for number in range(12):
        rig.send_parts(f"p{number}")
        await rig.clock.advance(60)
    async with rig.running(rig.measured(stage, WorkerSettings(slots=1))):
        ages = [(await rig.reported())["oldest_age_seconds"] for _ in range(8)]
    assert ages[0] > 600
    assert all(later < earlier for earlier, later in pairwise(ages))


async def test_the_age_of_what_was_never_read_comes_from_a_look_at_the_log() -> None:
    rig, stage = MeasuredRig(partitions=2), ScriptedStage()
    stage.fault_in_load = lambda _: DependencyDownError("objects", "away")
    rig.send_parts("first", partition=0)
    tight = WorkerSettings(compute="inline", buffer_records=1, poll_records=1)
    async with rig.running(rig.measured(stage, tight)):
        await rig.reported()
        # The breaker is open: nobody reads this.
        rig.send_parts("unread", partition=1)
        await rig.clock.advance(120)
        now = await rig.reported()
        assert now["partitions_paused"] >= 1
        assert now["lag_records"] == 2
        assert now["oldest_age_seconds"] >= 140
        # A look is a connection of its own: not one at each report, and the figure goes on.
        looks = rig.looks
        await rig.clock.advance(118)
        assert rig.looks - looks <= 3
        assert rig.gauges.now["oldest_age_seconds"] >= 255
        stage.fault_in_load = lambda _: None
        await rig.until(rig.all_committed)
        assert (await rig.reported())["oldest_age_seconds"] == 0


async def test_a_partition_of_which_all_is_deleted_is_looked_at_once_until_something_comes() -> (
    None
):
    rig, stage = MeasuredRig(), ScriptedStage()
    end = 5
    rig.broker.end = lambda place: end + place.partition  # type: ignore[method-assign] # what it held is past its time
    async with rig.running(rig.measured(stage)):
        await rig.reported()
        await rig.clock.advance(300)
        assert rig.looks == 1
        assert (rig.gauges.now["oldest_age_seconds"], rig.gauges.now["lag_records"]) == (0, 0)
        end = 6
        await rig.reported()
        assert rig.looks == 2


async def test_a_loop_that_is_held_up_shows_in_the_gauge_and_in_readiness() -> None:
    gauges = Gauges()
    lag = LoopLag(gauges, bound_s=0.2)
    measuring = asyncio.create_task(lag.run())
    await _really(lambda: "loop_lag_seconds" in gauges.now)
    assert lag.not_ready() == ()
    _block_for(0.5)
    await asyncio.sleep(0.001)  # one turn of the loop, in which it finds itself late
    assert lag.worst_s == gauges.now["loop_lag_seconds"] >= 0.3
    assert lag.not_ready()
    await _really(lambda: not lag.not_ready())
    assert gauges.now["loop_lag_seconds"] >= 0.3, "the worst of the last seconds stays"
    measuring.cancel()


async def _really(condition: Callable[[], bool]) -> None:
    """Wait in true time, since a loop that is held up knows no other."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the gauge tells nobody
            await asyncio.sleep(0.01)


def _block_for(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        pass
