"""How events flow through a worker that nothing disturbs, one promise per test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from adapters.clock import SystemClock
from adapters.memory.broker import MemoryBroker
from pipeline.stage import Settled
from pipeline.telemetry import NullTelemetry
from pipeline.worker import Worker
from pipeline.worker_settings import WorkerSettings
from schemas.codec import decode
from schemas.event import Event
from tests.worker_rig import (
    GROUP,
    IN,
    INLINE,
    OUT,
    Rig,
    ScriptedStage,
    SlotScriptedStage,
    embedded,
    message,
    requested,
    uploaded,
)

REQUESTS = "inspections.requested"


async def test_every_event_comes_out_once_in_the_order_of_its_key() -> None:
    rig, stage = Rig(partitions=3), ScriptedStage()
    parts = {station: [f"{station}-{number}" for number in range(30)] for station in "ABCD"}
    for number in range(30):
        for station in "ABCD":
            rig.send_parts(parts[station][number], station=station)
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    for station, expected in parts.items():
        assert [part for part in rig.outputs() if part.startswith(station)] == expected


async def test_outputs_of_a_key_keep_their_order_although_loads_end_in_any_order() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    delays = {"a": 5.0, "b": 0.1, "c": 3.0, "d": 0.0}
    stage.before_load = lambda part: rig.clock.sleep(delays[part])
    rig.send_parts("a", "b", "c", "d")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a", "b", "c", "d"]


async def test_a_slow_load_delays_only_its_own_key() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.before_load = lambda part: rig.clock.sleep(20.0 if part == "slow" else 0.0)
    rig.send_parts("slow", station="A")
    rig.send_parts("b", "c", station="B")
    async with rig.running(rig.worker(stage)):
        await rig.until(lambda: rig.outputs() == ["b", "c"])
        assert rig.clock.monotonic() < 1
        await rig.clock.advance(2)
        assert rig.committed() == 0, "a commit passed unfinished work"
        await rig.until(rig.all_committed)


async def test_a_single_event_is_not_made_to_wait_for_a_batch() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    async with rig.running(rig.worker(stage)):
        await rig.until(lambda: rig.clock.monotonic() > 1)
        rig.send_parts("a")
        sent_at = rig.clock.monotonic()
        await rig.until(lambda: rig.outputs() == ["a"])
        assert rig.clock.monotonic() == sent_at, "a batching wait"
    assert stage.batches == [["a"]]


async def test_a_stage_that_lingers_takes_what_comes_meanwhile_into_the_same_batch() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    async with rig.running(rig.worker(stage, replace(INLINE, linger_s=0.2))):
        await rig.until(lambda: rig.clock.monotonic() > 1)
        rig.send_parts("a")
        sent_at = rig.clock.monotonic()
        await rig.clock.advance(0.1)
        assert rig.outputs() == []
        rig.send_parts("b")
        await rig.until(lambda: rig.outputs() == ["a", "b"])
        assert rig.clock.monotonic() - sent_at < 0.5
        await rig.until(rig.all_committed)
    assert stage.batches == [["a", "b"]]


async def test_a_stage_that_lingers_does_not_wait_behind_a_backlog() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    rig.send_parts(*(f"part-{number}" for number in range(40)))
    settings = replace(INLINE, linger_s=100.0, poll_records=4)
    async with rig.running(rig.worker(stage, settings)):
        await rig.until(rig.all_committed)
        assert rig.clock.monotonic() < 100
    assert len(rig.outputs()) == 40


async def test_batches_mix_partitions() -> None:
    rig, stage = Rig(partitions=2), ScriptedStage()
    rig.send_parts("a", "b", partition=0)
    rig.send_parts("c", "d", station="S2", partition=1)
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert sorted(stage.batches[0]) == ["a", "b", "c", "d"]


async def test_settled_events_are_published_or_passed_over_without_inference() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    load = stage.load

    async def settle(event: Any) -> Any:
        part = await load(event)
        if part == "skip":
            return Settled(embedded(event))
        return Settled() if part == "foreign" else part

    stage.load = settle  # type: ignore[method-assign]  # a stage that skips
    rig.send_parts("a", "skip", "foreign", "b")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert rig.outputs() == ["a", "skip", "b"]
    assert stage.batches == [["a", "b"]]


async def test_traceparent_is_carried_from_the_record_to_its_output() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    trace = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    plain = message(uploaded("a"))
    rig.broker.append(plain._replace(headers=(*plain.headers, trace)))
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    (record,) = rig.broker.records(OUT)
    assert trace in record.headers
    assert record.header("ce_source") == "/lineside/embed"


async def test_requests_are_taken_before_the_backlog() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    stage.before_load = lambda _: rig.clock.sleep(1.0)
    for number in range(300):
        rig.send_parts(f"p{number}", station=f"S{number}")
    worker = rig.worker(stage, topics=(IN, REQUESTS), buffer_records=40, poll_records=20)
    async with rig.running(worker):
        await rig.until(lambda: len(stage.loads) > 20)
        before = len(stage.loads)
        rig.send(requested("urgent"))
        await rig.until(lambda: "urgent" in stage.loads)
        assert len(stage.loads) - before < 12, "it stood in line behind the backlog"


async def test_reading_pauses_at_the_buffer_limit_and_goes_on() -> None:
    rig, stage = Rig(partitions=2), ScriptedStage()
    stage.before_load = lambda _: rig.clock.sleep(0.5)
    for number in range(120):
        rig.send_parts(f"p{number}", station=f"S{number}")
    worker = rig.worker(stage, buffer_records=16, poll_records=8)
    async with rig.running(worker):
        await rig.until(lambda: rig.clock.monotonic() > 3)
        assert len(worker._dispatch.queue) <= 24, "memory grows with the backlog"
        await rig.until(rig.all_committed)
    assert len(rig.outputs()) == 120


async def test_slots_infer_so_many_at_once_and_each_settles_alone() -> None:
    rig, stage = Rig(partitions=1), SlotScriptedStage()
    stage.during_infer = lambda part: rig.clock.sleep(60.0 if part == "slow" else 1.0)
    rig.send_parts("slow", *(f"p{number}" for number in range(9)))
    async with rig.running(rig.worker(stage, slots=3)):
        await rig.until(lambda: len(rig.outputs()) == 9)
        assert rig.clock.monotonic() < 10, "the slow one held the others up"
        assert rig.committed() == 0
        await rig.until(rig.all_committed)
    assert stage.most_running == 3


async def test_polling_goes_on_while_a_batch_computes_on_its_thread() -> None:
    clock = SystemClock()
    broker = MemoryBroker(clock, partitions=1)
    polls: list[float] = []

    class Slow(ScriptedStage):
        def infer(self, items: Sequence[str]) -> Sequence[str]:
            # Long work, without a wait on a clock of the loop.
            until = clock.monotonic() + 0.4
            while clock.monotonic() < until:
                sum(range(1000))
            return list(items)

    stage = Slow()
    worker = Worker(
        stage,
        broker.open_source(GROUP, (IN,)),
        broker,
        clock,
        NullTelemetry(),
        WorkerSettings(batch_size=2, poll_timeout_s=0.05),
    )
    task = asyncio.create_task(worker.run())
    broker.append(message(uploaded("a")))
    async with asyncio.timeout(20):
        while not broker.records(OUT):
            polls.append(worker.last_turn)
            await asyncio.sleep(0.01)
    assert len(set(polls)) >= 4, "polling stood still during infer"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_next_batch_loads_while_one_computes() -> None:
    rig, stage = Rig(partitions=1), SlotScriptedStage()
    loaded_during_infer: list[int] = []

    async def during_infer(_: str) -> None:
        await rig.clock.sleep(5.0)
        loaded_during_infer.append(len(stage.loads))

    stage.during_infer = during_infer
    rig.send_parts("a", "b", "c", "d")
    async with rig.running(rig.worker(stage, slots=1)):
        await rig.until(rig.all_committed)
    assert loaded_during_infer[0] == 2, "one computes, one is loaded ahead, no more"


class TogetherStage(ScriptedStage):
    """Saves in one go, as the record stage does."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[list[str]] = []
        self.error: Exception | None = None

    async def save_all(
        self, events: Sequence[Any], results: Sequence[Any]
    ) -> Sequence[Event | None]:
        self.together.append(list(results))
        if self.error is not None:
            raise self.error
        return [None] * len(events)


async def test_a_stage_that_computes_nothing_saves_a_batch_before_it_loads_the_next() -> None:
    steps: list[tuple[str, str]] = []

    class Noting(ScriptedStage):
        async def load(self, event: Any) -> Any:
            steps.append(("load", event.subject.part_id))
            return await super().load(event)

        async def save(self, event: Any, result: Any) -> Event | None:
            steps.append(("save", result))
            return await super().save(event, result)

    rig = Rig(partitions=1)
    rig.send_parts(*"abcdefgh")
    async with rig.running(rig.worker(Noting(), INLINE, batch_size=4)):
        await rig.until(rig.all_committed)
    first, second = "abcd", "efgh"
    expected = [
        (verb, part) for half in (first, second) for verb in ("load", "save") for part in half
    ]
    assert steps == expected


async def test_a_stage_that_saves_together_needs_no_output_to_commit() -> None:
    rig, stage = Rig(partitions=1), TogetherStage()
    rig.send_parts("a", "b", "c")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert stage.together == [["a", "b", "c"]]
    assert not stage.saves
    assert not rig.outputs()


async def test_when_saving_together_fails_each_event_is_saved_alone() -> None:
    rig, stage = Rig(partitions=1), TogetherStage()
    stage.error = ValueError("one row is wrong")
    stage.fault_in_save = lambda part: ValueError("this row") if part == "b" else None
    rig.send_parts("a", "b", "c")
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    assert rig.buried() == {"b": "bug"}
    assert rig.outputs() == ["a", "c"]


async def test_equal_inputs_make_outputs_with_equal_ids() -> None:
    rig, stage = Rig(partitions=1), ScriptedStage()
    event = uploaded("a")
    rig.send(event, event)
    async with rig.running(rig.worker(stage)):
        await rig.until(rig.all_committed)
    first, second = (decode(record).event_id for record in rig.broker.records(OUT))
    assert first == second
