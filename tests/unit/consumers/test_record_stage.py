from __future__ import annotations

import pytest

from adapters.memory.inspections import MemoryInspections
from adapters.memory.tables import MemoryTables
from consumers.record.stage import RecordStage
from schemas.event import Event
from schemas.topics import TOPICS, topics_read_by
from tests.story import Story, configured, manual, registered


@pytest.fixture
def inspections() -> MemoryInspections:
    return MemoryInspections(MemoryTables())


async def run(stage: RecordStage, events: list[Event]) -> None:
    items = [await stage.load(event) for event in events]
    assert await stage.save_all(events, stage.infer(items)) == [None] * len(events)


async def test_a_batch_of_any_events_is_written_and_nothing_is_published(
    inspections: MemoryInspections,
) -> None:
    story = Story()
    scored = story.scored("NG")
    others: list[Event] = [configured(1), registered("c", 1), manual("m", 1)]
    await run(RecordStage(inspections), [scored, *others, story.embedded(), story.uploaded])
    view = await inspections.get(story.image_id)
    assert view is not None
    assert (view["verdict"], view["waiting_for"]) == ("NG", ["llm"])


async def test_an_event_saved_alone_is_the_same_as_in_its_batch(
    inspections: MemoryInspections,
) -> None:
    story, stage = Story(), RecordStage(inspections)
    for event in (story.uploaded, story.uploaded, story.skipped("anomaly"), story.embedded()):
        await stage.save(event, event)
    view = await inspections.get(story.image_id)
    assert view is not None
    assert (view["status"], view["verdict"]) == ("complete", "NOT_JUDGED")


def test_every_topic_that_tells_of_a_result_is_recorded() -> None:
    unread = {name for name in TOPICS if name not in topics_read_by("record")}
    assert unread == {"reports.streamed", "banks.requested"}
