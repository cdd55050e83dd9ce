from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from pipeline.compute import ComputeThread
from pipeline.stage import Settled
from schemas.event import Event, ImageEvent, StageEvent
from schemas.message import Message
from schemas.subject import Subject
from schemas.topics import STAGES, triggers_of
from tests.stage_rig import Plant, Sabotaged, comparable, running_plant, settle

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.parametrize("name", STAGES)]

# It writes rows and publishes nothing.
SILENT = {"record"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    async with running_plant(tmp_path_factory.mktemp("stages")) as plant:
        yield plant


async def _infer(stage: Any, items: Sequence[Any]) -> list[Any]:
    if inspect.iscoroutinefunction(stage.infer):
        return list(await asyncio.gather(*(stage.infer(item) for item in items)))
    # As the worker does it: a thread of its own, with that thread's number of cores.
    thread = ComputeThread("infer")
    try:
        return list(await thread.run(stage.infer, items))
    finally:
        thread.close()


async def _loaded(stage: Any, events: Sequence[Event]) -> list[tuple[Event, Any]]:
    """Events that the stage wants to infer on, with their items."""
    pairs = [(event, await stage.load(event)) for event in events]
    return [(event, item) for event, item in pairs if not isinstance(item, Settled)]


async def test_some_role_runs_the_stage_on_true_inputs(plant: Plant, name: str) -> None:
    assert set(plant.stages) == set(STAGES)
    events = plant.inputs(name)
    assert len(await _loaded(plant.stages[name], events)) >= 2
    assert bool((await settle(plant.stages[name], events)).outputs) == (name not in SILENT)


async def test_results_are_as_many_as_the_items_and_in_their_order(plant: Plant, name: str) -> None:
    stage: Any = plant.stages[name]
    pairs = await _loaded(stage, plant.inputs(name))
    results = await _infer(stage, [item for _, item in pairs])
    mirrored = await _infer(stage, [item for _, item in reversed(pairs)])
    assert len(results) == len(mirrored) == len(pairs)
    for (event, _), result, again in zip(pairs, results, reversed(mirrored), strict=True):
        saved, twin = await stage.save(event, result), await stage.save(event, again)
        if name in SILENT:
            assert saved is twin is None
            continue
        assert comparable(saved) == comparable(twin)
        if isinstance(saved, StageEvent):
            assert saved.trigger_event_id == event.event_id


async def test_equal_input_makes_equal_events(plant: Plant, name: str) -> None:
    events = plant.inputs(name)
    first = await settle(plant.stages[name], events)
    assert first == await settle(plant.stages[name], events)
    assert first.buried == []


async def test_what_an_event_becomes_does_not_depend_on_its_batch(plant: Plant, name: str) -> None:
    events = plant.inputs(name)
    alone = await settle(plant.stages[name], events, batch_size=1)
    assert alone == await settle(plant.stages[name], events, batch_size=len(events))
    assert alone == await settle(plant.stages[name], events[::-1], batch_size=3)


async def test_poison_takes_no_neighbour_along(plant: Plant, name: str) -> None:
    stage: Any = plant.stages[name]
    events = plant.inputs(name)
    victim = (await _loaded(stage, events))[1][0]
    without = [event for event in events if event is not victim]
    healthy = await settle(stage, without)
    topic = triggers_of(name)[0]
    null, text, foreign = (
        Message(topic, b"press-1", value) for value in (None, b"\xff\xd8 no event", b"{}")
    )
    middle = len(events) // 2
    mixed: list[Event | Message] = [null, *events[:middle], text, *events[middle:], foreign]
    spoilt = await settle(Sabotaged(stage, victim.event_id), mixed)
    assert spoilt.buried == ["bug", "not_json", "null_value", "schema"]
    assert spoilt.outputs == healthy.outputs


def _from_a_newer_sender(event: Event) -> Event:
    """The event as a later version may send it: with a field that nobody here knows."""
    assert isinstance(event, ImageEvent)
    said = {**event.subject.model_dump(mode="json"), "operator_badge": "17"}
    return event.model_copy(update={"subject": Subject.model_validate(said)})


async def test_g17_what_a_newer_sender_adds_travels_through_every_stage(
    plant: Plant, name: str
) -> None:
    events = [event for event in plant.inputs(name) if isinstance(event, ImageEvent)]
    made = await settle(plant.stages[name], [_from_a_newer_sender(event) for event in events])
    told = [output["subject"] for output in made.outputs.values() if "subject" in output]
    # These two publish nothing about an image.
    assert told or name in {"record", "bank-build"}
    assert {subject.get("operator_badge") for subject in told} <= {"17"}
    assert made.buried == []
