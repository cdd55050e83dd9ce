"""G7 in one process: a frozen member is replaced, and slow work is never taken for one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from pipeline.errors import DependencyDownError, StalledError
from pipeline.guard import GuardedOpenSource
from pipeline.ports import EventSource, WitnessView
from pipeline.telemetry import MetricName, NullTelemetry
from pipeline.watchdog import WatchPolicy
from pipeline.worker import Worker
from pipeline.worker_settings import WorkerSettings
from tests.worker_rig import GROUP, IN, INLINE, Rig, ScriptedStage, SlotScriptedStage

POLICY = WatchPolicy(look_every_s=5, patience_s=20, rebuilds=2)


class Counting(NullTelemetry):
    """Counts what is counted."""

    def __init__(self) -> None:
        self.counts: dict[tuple[MetricName, str], float] = {}

    def count(self, name: MetricName, n: float = 1, **labels: str) -> None:
        key = (name, labels.get("reason", ""))
        self.counts[key] = self.counts.get(key, 0) + n


class WatchedRig(Rig):
    """A rig whose workers have a watchdog."""

    def __init__(self, *, partitions: int = 2) -> None:
        super().__init__(partitions=partitions)
        self.telemetry = Counting()
        self.blindness: BaseException | None = None

    async def look(self, member: EventSource | None) -> WitnessView:
        if self.blindness is not None:
            raise self.blindness
        return await self.broker.witness(member)

    def watched(self, stage: ScriptedStage, settings: WorkerSettings = INLINE) -> Worker:
        source = GuardedOpenSource(
            self.broker.open_source(GROUP, (IN,)),
            self.look,
            self.clock,
            self.telemetry,
            stage.name,
            POLICY,
        )
        return Worker(stage, source, self.broker, self.clock, self.telemetry, settings)

    def freeze(self) -> None:
        """Freeze whoever is in the group now."""
        for member in self.broker.group(GROUP).members:
            member.is_frozen = True

    @property
    def rebuilds(self) -> float:
        return sum(n for (name, _), n in self.telemetry.counts.items() if name == "member_rebuilds")


def parts(numbers: Iterable[int]) -> list[str]:
    return [f"p{number}" for number in numbers]


async def test_a_frozen_member_is_replaced_and_nothing_is_lost_or_doubled() -> None:
    rig, stage = WatchedRig(), ScriptedStage()
    rig.send_parts(*parts(range(20)))
    async with rig.running(rig.watched(stage)) as task:
        await rig.until(rig.all_committed)
        rig.freeze()
        await rig.clock.advance(1)  # the poll under way ends
        rig.send_parts(*parts(range(20, 40)))
        frozen_at = rig.clock.monotonic()
        await rig.until(rig.all_committed, limit_s=60)
        assert rig.clock.monotonic() - frozen_at < POLICY.patience_s + 3 * POLICY.look_every_s
        assert not task.done()
    assert rig.rebuilds == 1
    assert sorted(rig.outputs()) == sorted(parts(range(40)))


async def test_work_under_way_when_the_member_froze_is_finished_once() -> None:
    rig, stage = WatchedRig(partitions=1), SlotScriptedStage()

    async def slow(_: str) -> None:
        await rig.clock.sleep(3)

    stage.during_infer = slow
    rig.send_parts(*parts(range(8)))
    async with rig.running(rig.watched(stage)):
        await rig.until(lambda: stage.running > 0)
        rig.freeze()
        await rig.until(rig.all_committed, limit_s=120)
    assert rig.rebuilds == 1
    # What was computed under the frozen member could not be committed: equal ids, read again.
    assert set(rig.outputs()) == set(parts(range(8)))


async def test_when_new_members_freeze_as_well_the_worker_leaves_and_says_why() -> None:
    rig, stage = WatchedRig(), ScriptedStage()
    task = asyncio.create_task(rig.watched(stage).run())
    rig.send_parts("a")
    await rig.until(rig.all_committed)
    rig.broker.is_silent = True
    await rig.until(task.done, limit_s=120)
    with pytest.raises(StalledError, match="answers none"):
        await task
    assert rig.rebuilds == POLICY.rebuilds


async def test_ten_minutes_of_slow_inference_are_no_freeze() -> None:
    rig, stage = WatchedRig(partitions=1), SlotScriptedStage()

    async def slow(_: str) -> None:
        await rig.clock.sleep(11 * 60)

    stage.during_infer = slow
    tight = WorkerSettings(slots=1, buffer_records=4, pause_after_s=0.1)
    rig.send_parts(*parts(range(20)))
    async with rig.running(rig.watched(stage, tight)) as task:
        await rig.until(lambda: len(rig.outputs()) == 3, limit_s=3600)
        assert not task.done()
        stage.during_infer = None
        await rig.until(rig.all_committed, limit_s=1200)
    assert rig.rebuilds == 0
    assert rig.outputs() == parts(range(20))


async def test_a_quarter_of_an_hour_of_an_open_breaker_is_no_freeze() -> None:
    rig, stage = WatchedRig(partitions=1), ScriptedStage()
    stage.fault_in_load = lambda _: DependencyDownError("objects", "away")
    rig.send_parts("a", "b")
    async with rig.running(rig.watched(stage)):
        await rig.clock.advance(900)
        stage.fault_in_load = lambda _: None
        await rig.until(rig.all_committed, limit_s=10)
    assert rig.rebuilds == 0


async def test_a_broker_that_is_away_for_an_hour_is_waited_for_also_at_the_start() -> None:
    rig, stage = WatchedRig(partitions=1), ScriptedStage()
    rig.send_parts("a")
    rig.broker.is_down = True
    worker = rig.watched(stage)
    async with rig.running(worker) as task:
        await rig.clock.advance(3600)
        assert worker.not_ready()
        assert not task.done()
        rig.broker.is_down = False
        await rig.until(rig.all_committed, limit_s=10)
        # With a result in hand that cannot be published.
        stage.before_load = lambda _: rig.clock.sleep(5)
        rig.send_parts("b")
        await rig.clock.advance(2)
        rig.broker.is_down = True
        await rig.clock.advance(3600)
        assert worker.not_ready()
        assert not task.done()
        rig.broker.is_down = False
        await rig.until(rig.all_committed, limit_s=10)
    assert rig.rebuilds == 0
    assert rig.outputs() == ["a", "b"]


async def test_a_member_without_partitions_in_a_stable_group_is_no_freeze() -> None:
    rig = WatchedRig(partitions=1)
    first, second = rig.watched(ScriptedStage()), rig.watched(ScriptedStage())
    async with rig.running(first), rig.running(second):
        rig.send_parts("a")
        await rig.until(rig.all_committed)
        await rig.clock.advance(1200)
        rig.send_parts("b")
        await rig.until(rig.all_committed)
    assert rig.rebuilds == 0
    assert rig.outputs() == ["a", "b"]


@pytest.mark.parametrize("error", [RuntimeError("a bug"), asyncio.CancelledError()])
async def test_a_witness_that_fails_ends_no_worker_that_is_well(error: BaseException) -> None:
    rig = WatchedRig(partitions=1)
    rig.blindness = error
    rig.send_parts("a")
    async with rig.running(rig.watched(ScriptedStage())) as task:
        await rig.clock.advance(60)
        assert not task.done()
        rig.send_parts("b")
        await rig.until(rig.all_committed)
    assert rig.rebuilds == 0
    assert rig.outputs() == ["a", "b"]
