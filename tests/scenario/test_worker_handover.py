"""Starts, stops, rebalances and crashes of workers, one promise per test."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pipeline.errors import PoisonError, StalledError, TransientError
from pipeline.ports import Commit
from schemas.message import TopicPartition
from tests.worker_rig import GROUP, IN, OUT, ProcessDiedError, Rig, ScriptedStage, SlotScriptedStage

PLACE = TopicPartition(IN, 0)


def slow_slots(rig: Rig, seconds: float = 5.0) -> SlotScriptedStage:
    stage = SlotScriptedStage()
    stage.during_infer = lambda _: rig.clock.sleep(seconds)
    return stage


async def test_a_stop_finishes_started_work_and_commits_it() -> None:
    rig = Rig(partitions=1)
    stage = slow_slots(rig)
    rig.send_parts(*(f"p{number}" for number in range(10)))
    async with rig.running(rig.worker(stage, slots=2)):
        await rig.until(lambda: stage.running == 2)
    assert rig.outputs() == ["p0", "p1"]
    assert rig.committed() == 2


async def test_what_was_not_started_at_a_stop_is_given_back() -> None:
    rig = Rig(partitions=1)
    stage = slow_slots(rig)
    rig.send_parts(*(f"p{number}" for number in range(6)))
    async with rig.running(rig.worker(stage, slots=2)):
        await rig.until(lambda: stage.running == 2)
    async with rig.running(rig.worker(stage, slots=2)):
        await rig.until(rig.all_committed)
    assert sorted(rig.outputs()) == [f"p{number}" for number in range(6)], "duplicates or losses"


async def test_work_that_outlasts_the_budget_is_abandoned_and_redelivered() -> None:
    rig = Rig(partitions=1)
    stage = slow_slots(rig, 100.0)
    rig.send_parts("stuck")
    task = asyncio.create_task(rig.worker(stage, drain_budget_s=8).run())
    await rig.until(lambda: stage.running == 1)
    asked_at = rig.clock.monotonic()
    await rig.stop(task)
    assert rig.clock.monotonic() - asked_at == pytest.approx(8, abs=0.5)
    assert not rig.outputs()
    assert rig.committed() == 0
    stage.during_infer = None
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["stuck"]


async def test_a_stop_commits_nothing_that_was_not_acknowledged() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.broker.refuse = lambda _: TransientError("not enough replicas")
    rig.send_parts("a", "b")
    async with rig.running(rig.worker(stage, drain_budget_s=2)):
        await rig.until(lambda: stage.saves == ["a", "b"])
    assert rig.committed() == 0


async def test_a_stop_during_an_outage_of_the_broker_ends_within_the_budget() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.send_parts("a")
    rig.broker.refuse = lambda _: TransientError("not enough replicas")
    task = asyncio.create_task(rig.worker(stage, drain_budget_s=8).run())
    await rig.until(lambda: bool(stage.saves))
    rig.broker.is_down = True
    await rig.clock.advance(2)
    task.cancel()
    await rig.until(task.done, limit_s=20)
    rig.broker.is_down, rig.broker.refuse = False, lambda _: None
    assert rig.committed() == 0
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a"]


async def test_partitions_move_to_a_second_worker_without_loss_or_duplicate() -> None:
    rig, first, second = Rig(partitions=4), ScriptedStage(), ScriptedStage()
    first.before_load = second.before_load = lambda _: rig.clock.sleep(0.2)
    for number in range(80):
        rig.send_parts(f"p{number}", station=f"S{number}")
    async with rig.running(rig.worker(first)):
        await rig.until(lambda: len(rig.outputs()) > 10)
        async with rig.running(rig.worker(second)):
            await rig.until(rig.all_committed)
    assert first.saves
    assert second.saves
    assert sorted(rig.outputs()) == sorted(f"p{number}" for number in range(80))


async def test_a_rebalance_that_gives_everything_back_starts_a_new_generation() -> None:
    rig = Rig(partitions=2)
    stage = slow_slots(rig, 30.0)
    for number in range(6):
        rig.send_parts(f"p{number}", station=f"S{number}")
    async with rig.running(rig.worker(stage, slots=3, drain_budget_s=1)):
        await rig.until(lambda: stage.running == 3)
        rebalance = asyncio.create_task(rig.broker.group(GROUP).rebalance())
        await rig.until(rebalance.done)
        stage.during_infer = None
        await rig.until(rig.all_committed)
    assert sorted(rig.outputs()) == [f"p{number}" for number in range(6)]


async def test_a_paused_partition_that_comes_back_is_read_on() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    gate = asyncio.Event()
    stage.before_load = lambda _: gate.wait()
    for number in range(60):
        rig.send_parts(f"p{number}", station=f"S{number}")
    async with rig.running(rig.worker(stage, buffer_records=10, poll_records=10)):
        await rig.clock.advance(2)
        rebalance = asyncio.create_task(rig.broker.group(GROUP).rebalance())
        await rig.until(rebalance.done)
        await rig.clock.advance(2)
        gate.set()
        await rig.until(rig.all_committed)
    assert sorted(set(rig.outputs())) == sorted(f"p{number}" for number in range(60))


async def test_a_member_that_the_group_has_lost_stops_and_commits_nothing() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.before_load = lambda _: rig.clock.sleep(1.0)
    rig.send_parts("a", "b")
    task = asyncio.create_task(rig.worker(stage).run())
    await rig.until(lambda: bool(stage.loads))
    group = rig.broker.group(GROUP)
    group.kill(group.members[0])
    await rig.until(task.done)
    with pytest.raises(StalledError):
        await task
    assert rig.committed() == 0


async def test_a_second_cancel_ends_the_drain_at_once() -> None:
    rig = Rig(partitions=1)
    stage = slow_slots(rig, 100.0)
    rig.send_parts("stuck")
    task = asyncio.create_task(rig.worker(stage, drain_budget_s=50).run())
    await rig.until(lambda: stage.running == 1)
    task.cancel()
    await rig.clock.advance(1)
    assert not task.done()
    task.cancel()
    await rig.until(task.done, limit_s=1)
    assert task.cancelled()


async def test_an_orderly_stop_is_no_crash_in_the_journal() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.fault_in_load = lambda _: TransientError()
    rig.send_parts("a")
    for _ in range(5):
        async with rig.running(rig.worker(stage)):
            await rig.clock.advance(1)
    assert rig.broker.committed(GROUP)[PLACE] == Commit(0, "")


class Killer(ScriptedStage):
    """Kills its process while it holds one part."""

    def __init__(self, rig: Rig, part: str) -> None:
        super().__init__()
        self.rig = rig
        self.part = part
        self.killed = 0

    async def save(self, event: Any, result: Any) -> Any:
        if result == self.part:
            self.killed += 1
            group = self.rig.broker.group(GROUP)
            for member in group.members:
                group.kill(member)
            raise ProcessDiedError
        return await super().save(event, result)


async def start_until_it_survives(rig: Rig, stage: ScriptedStage) -> int:
    """Restart as a supervisor does; return the number of starts."""
    for starts in range(1, 20):
        task = asyncio.create_task(rig.worker(stage).run())
        await rig.until(lambda task=task: task.done() or rig.all_committed())  # type: ignore[misc]  # bound now
        if not task.done():
            await rig.stop(task)
            return starts
        with pytest.raises(ProcessDiedError):
            await task
    pytest.fail("it never came through")


async def test_a_record_that_kills_the_process_is_found_and_buried_and_only_that_one() -> None:
    rig = Rig(partitions=2)
    for number in range(20):
        rig.send_parts(f"p{number}", station=f"S{number}")
    stage = Killer(rig, "p7")
    starts = await start_until_it_survives(rig, stage)
    assert rig.buried() == {"p7": "crash_loop"}
    assert set(rig.outputs()) == {f"p{number}" for number in range(20)} - {"p7"}
    assert stage.killed == 4, "two starts to grow careful, two deaths to be sure"
    assert starts == 5


async def test_two_killers_are_both_found() -> None:
    rig = Rig(partitions=1)
    rig.send_parts(*(f"p{number}" for number in range(10)))
    stage = Killer(rig, "p3")
    await start_until_it_survives(rig, stage)
    rig.send_parts("p10", "q", "p11")
    stage.part = "q"
    await start_until_it_survives(rig, stage)
    assert rig.buried() == {"p3": "crash_loop", "q": "crash_loop"}
    assert {*rig.outputs(), *rig.buried()} == {*(f"p{number}" for number in range(12)), "q"}


async def test_records_are_named_before_they_start_once_the_process_keeps_dying() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.broker.group(GROUP).committed[PLACE] = Commit(0, json.dumps({"starts": 2}))
    rig.send_parts("a", "b", "c")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    named = [json.loads(one.metadata or "{}").get("named") for _, _, one in rig.broker.commits]
    assert [name for name in named if name is not None] == [0, 1, 2]
    assert all(len(batch) == 1 for batch in stage.batches)
    assert rig.broker.committed(GROUP)[PLACE] == Commit(3, "")


async def test_after_the_dangerous_stretch_batches_are_full_again() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.broker.group(GROUP).committed[PLACE] = Commit(0, json.dumps({"starts": 2}))
    rig.send_parts("a", "b")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
        rig.send_parts("c", "d", "e", "f")
        await rig.until(rig.all_committed)
    assert stage.batches[-1] == ["c", "d", "e", "f"]


async def test_a_broken_step_loses_nothing() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.broker.refuse = lambda message: (
        SystemError("bug in the sink") if message.topic != OUT else None
    )
    stage.fault_in_load = lambda part: PoisonError("bad") if part == "b" else None
    rig.send_parts("a", "b", "c", "d")
    task = asyncio.create_task(rig.worker(stage).run())
    await rig.until(task.done)
    with pytest.raises(StalledError):
        await task
    rig.broker.refuse = lambda _: None
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert {*rig.outputs(), *rig.buried()} == {"a", "b", "c", "d"}
