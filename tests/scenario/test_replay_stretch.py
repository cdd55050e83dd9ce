from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from adapters.memory.broker import MemoryBroker
from adapters.memory.clock import VirtualClock
from adapters.memory.objects import MemoryObjects
from pipeline.errors import DependencyDownError, PoisonError, TransientError
from pipeline.side_output import SideSink, SideStore
from pipeline.stretch import Pace, Selection, Span, StretchSource
from pipeline.telemetry import NullTelemetry
from pipeline.worker import Worker
from schemas.codec import decode
from schemas.dead_letters import DeadLetter
from schemas.embeddings import ImageEmbedded
from schemas.message import Message, TopicPartition
from tests.worker_rig import DEAD, IN, INLINE, OUT, ScriptedStage, message, uploaded

SIDE = "replays.trial"


@dataclass
class Rig:
    """A log with uploads in it, and a worker that replays a stretch of them."""

    clock: VirtualClock
    broker: MemoryBroker
    stage: ScriptedStage
    source: StretchSource

    def outputs(self) -> list[Any]:
        return [decode(record) for record in self.broker.records(SIDE)]

    @property
    def parts(self) -> list[str | None]:
        return [event.subject.part_id for event in self.outputs()]


def make(selection: Selection | None = None, *, parts: int = 10, partitions: int = 1) -> Rig:
    clock = VirtualClock()
    broker = MemoryBroker(clock, partitions=partitions)
    broker.add_topic(SIDE, partitions)
    for number in range(parts):
        broker.append(message(uploaded(f"p{number}", station=f"S{number % partitions}")))
    source = StretchSource(broker.open_reader, whole(broker), selection or Selection(), clock)
    return Rig(clock, broker, ScriptedStage(), source)


def whole(broker: MemoryBroker) -> dict[TopicPartition, Span]:
    return {place: Span(0, broker.end(place)) for place in broker.places([IN])}


@asynccontextmanager
async def working(rig: Rig) -> AsyncIterator[asyncio.Task[None]]:
    sink = SideSink(rig.broker, SIDE, lambda _: None)
    worker = Worker(rig.stage, rig.source, sink, rig.clock, NullTelemetry(), INLINE)
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        task.cancel()
        stopping = asyncio.gather(task, return_exceptions=True)
        await rig.clock.run_until(stopping.done)


async def run(rig: Rig, *, limit_s: float = 600.0) -> None:
    async with working(rig) as task:
        await rig.clock.run_until(lambda: task.done() or rig.source.done.is_set(), limit_s=limit_s)
        assert not task.done()


async def test_a_stretch_goes_through_the_worker_and_no_group_hears_of_it() -> None:
    rig = make(parts=12, partitions=3)
    await run(rig)
    assert sorted(rig.parts, key=str) == sorted((f"p{n}" for n in range(12)), key=str)
    assert rig.broker.commits == []
    assert rig.broker.records(OUT) == rig.broker.records(DEAD) == []


async def test_what_arrives_after_the_start_is_no_part_of_the_stretch() -> None:
    rig = make(parts=3)
    rig.broker.append(message(uploaded("late")))
    await run(rig)
    assert rig.parts == ["p0", "p1", "p2"]
    assert rig.source.covered() == {TopicPartition(IN, 0): Span(0, 3)}


async def test_dead_letters_of_a_replay_go_to_its_own_topic() -> None:
    rig = make(parts=4)
    rig.stage.fault_in_load = lambda part: PoisonError("torn") if part == "p1" else None
    await run(rig)
    letters = [event for event in rig.outputs() if isinstance(event, DeadLetter)]
    assert [letter.reason for letter in letters] == ["torn"]
    assert len(rig.outputs()) == 4
    assert rig.broker.records(DEAD) == []


async def test_a_replay_waits_for_what_is_away_like_any_worker() -> None:
    rig = make(parts=6)
    away = True

    def fault(_part: str) -> Exception | None:
        return DependencyDownError("objects", "away") if away else None

    rig.stage.fault_in_load = fault
    async with working(rig):
        await rig.clock.advance(120)
        assert rig.outputs() == []
        away = False
        await rig.clock.run_until(rig.source.done.is_set)
    assert rig.parts == [f"p{n}" for n in range(6)]


async def test_a_refused_output_is_published_again() -> None:
    rig = make(parts=3)
    refusals = [TransientError("not now")]
    rig.broker.refuse = lambda _: refusals.pop() if refusals else None
    await run(rig)
    assert {event.event_id for event in rig.outputs()} == {
        event.event_id for event in rig.outputs() if isinstance(event, ImageEmbedded)
    }
    assert set(rig.parts) == {"p0", "p1", "p2"}


@pytest.mark.parametrize("limit", [1, 4, 10, 99])
async def test_a_limit_ends_the_replay_and_the_counts_add_up(limit: int) -> None:
    rig = make(Selection(limit=limit))
    await run(rig)
    assert len(rig.parts) == rig.source.selected == rig.source.read == min(limit, 10)


async def test_a_rate_is_kept() -> None:
    rig = make(Selection(rate=0.5))
    began = rig.clock.monotonic()
    await run(rig)
    elapsed_s = rig.clock.monotonic() - began
    assert elapsed_s == pytest.approx(18, abs=1.5)
    assert rig.source.holes == 0


def test_a_pace_gives_no_more_after_a_pause_than_one_second_holds() -> None:
    pace = Pace(5)
    assert pace.allowance(100.0) == 1
    pace.spend(1)
    assert pace.allowance(100.0) == 0
    assert pace.allowance(200.0) == 5
    assert Pace(None).allowance(0) > 1000


async def test_times_are_filtered_exactly_and_counted() -> None:
    rig = make(parts=0)
    for number in range(6):
        rig.broker.append(message(uploaded(f"p{number}")))
        await rig.clock.advance(1)
    first = rig.broker.records(IN)[0].timestamp_ms
    chosen = Selection(since_ms=first + 1000, until_ms=first + 4000)
    rig.source = StretchSource(rig.broker.open_reader, whole(rig.broker), chosen, rig.clock)
    await run(rig)
    assert rig.parts == ["p1", "p2", "p3"]
    assert (rig.source.read, rig.source.skipped["time"]) == (6, 3)


async def test_a_product_filter_leaves_out_others_and_what_cannot_be_read() -> None:
    rig = make(Selection(product="CELL"), parts=3)
    other = uploaded("x")
    subject = other.subject.model_copy(update={"product": "CAP"})
    rig.broker.append(message(other.model_copy(update={"subject": subject})))
    rig.broker.append(Message(IN, b"S1", b"no event"))
    rig.source.stretch = whole(rig.broker)
    rig.source.__post_init__()
    await run(rig)
    assert rig.parts == ["p0", "p1", "p2"]
    assert rig.source.skipped == {"product": 1, "unreadable": 1}
    assert rig.source.read == 5


async def test_an_interrupted_replay_says_which_offsets_are_covered() -> None:
    rig = make(parts=10)
    gate = asyncio.Event()

    async def wait(part: str) -> None:
        if part == "p5":
            await gate.wait()

    rig.stage.before_load = wait
    async with working(rig):
        await rig.clock.run_until(lambda: len(rig.parts) >= 4)
    covered = rig.source.covered()[TopicPartition(IN, 0)]
    assert covered == Span(0, len(rig.parts))
    assert not rig.source.done.is_set()


async def test_a_reader_that_is_silent_for_a_while_loses_nothing() -> None:
    rig = make(parts=5)
    real = rig.broker.read
    silent = True
    rig.broker.read = lambda *place: [] if silent else real(*place)  # type: ignore[method-assign] # the fault
    async with working(rig):
        await rig.clock.advance(25)
        assert rig.outputs() == []
        silent = False
        await rig.clock.run_until(rig.source.done.is_set)
    assert rig.parts == [f"p{n}" for n in range(5)]
    assert rig.source.holes == 0


async def test_offsets_without_records_at_the_end_do_not_hang_a_replay() -> None:
    rig = make(parts=3)
    place = TopicPartition(IN, 0)
    rig.source = StretchSource(rig.broker.open_reader, {place: Span(0, 5)}, Selection(), rig.clock)
    await run(rig)
    assert rig.parts == ["p0", "p1", "p2"]
    assert rig.source.holes == 2


async def test_an_empty_stretch_is_done_at_once() -> None:
    rig = make(parts=0)
    await run(rig, limit_s=1.0)
    assert rig.source.read == 0


async def test_a_side_store_reads_live_objects_and_writes_and_deletes_apart() -> None:
    live = MemoryObjects()
    await live.put("heatmaps/1.png", b"live", content_type="image/png")
    store = SideStore(live, "replays/trial/")
    await store.put("heatmaps/1.png", b"other", content_type="image/png")
    await store.put("replays/trial/heatmaps/2.png", b"own", content_type="image/png")
    assert await store.get("heatmaps/1.png") == b"live"
    await store.delete("heatmaps/1.png")
    assert live.keys() == ["heatmaps/1.png", "replays/trial/heatmaps/2.png"]
    assert await store.stat("heatmaps/1.png") is not None
    assert [stat.key async for stat in store.list("heatmaps/")] == ["heatmaps/1.png"]
