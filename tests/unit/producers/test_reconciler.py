"""A log that forgets: which images the reconciler brings back, and which it leaves alone."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from adapters.memory.broker import MemoryBroker
from adapters.memory.clock import VirtualClock
from adapters.memory.outbox import MemoryLease, MemoryOutbox
from adapters.memory.tables import MemoryTables
from adapters.memory.unanswered import MemoryUnanswered
from adapters.telemetry import PrometheusTelemetry
from pipeline.errors import ConfigError, DependencyDownError
from pipeline.reconciling import STAGES_ASKED, LogProgress, group_of, outputs_of
from producers.reconciler import Reconciler, ReconcilerPace, ReconcilerPorts
from schemas.codec import decode
from schemas.event import Event
from schemas.message import TopicPartition
from schemas.topics import TOPICS
from tests.story import Story


@dataclass
class Log:
    """What the cluster says, as a test sets it: one partition a topic."""

    cluster_id: str = "one"
    first: dict[str, int] = field(default_factory=dict)
    end: dict[str, int] = field(default_factory=dict)
    position: dict[tuple[str, str], int] = field(default_factory=dict)
    asked: int = 0
    refuses: bool = False

    async def __call__(self, groups: Mapping[str, Collection[str]]) -> LogProgress:
        self.asked += 1
        if self.refuses:
            raise ConfigError("Kafka refuses the credentials")
        positions: dict[str, dict[TopicPartition, int]] = {group: {} for group in groups}
        for (group, topic), offset in self.position.items():
            positions[group][TopicPartition(topic, 0)] = offset
        return LogProgress(
            self.cluster_id,
            {TopicPartition(topic, 0): self.first.get(topic, 0) for topic in TOPICS},
            {TopicPartition(topic, 0): self.end.get(topic, 0) for topic in TOPICS},
            positions,
        )

    def write(self, topic: str, count: int = 1) -> None:
        self.end[topic] = self.end.get(topic, 0) + count

    def read_all(self, *stages: str) -> None:
        for stage in stages or STAGES_ASKED:
            for topic in TOPICS:
                self.position[group_of(stage), topic] = self.end.get(topic, 0)


class Rig:
    def __init__(self) -> None:
        # Stories begin on a day of their own; all of them are old enough.
        self.clock = VirtualClock(Story().uploaded.occurred_at + timedelta(hours=1))
        self.tables = MemoryTables()
        self.outbox = MemoryOutbox(self.tables, source="/test")
        self.broker = MemoryBroker(self.clock)
        self.log = Log()
        self.telemetry = PrometheusTelemetry()
        self.lease = MemoryLease()
        images = MemoryUnanswered(self.tables, self.outbox)
        self.reconciler = Reconciler(
            ReconcilerPorts(images, self.log, self.broker, self.clock),
            source="/test",
            pace=ReconcilerPace(images=4),
            telemetry=self.telemetry,
        )

    async def accept(self, *stories: Story, publish: bool = True) -> None:
        for story in stories:
            await self.outbox.append([story.uploaded])
        if publish:
            rows = await self.outbox.pending(100)
            positions = await self.broker.publish([row.message for row in rows])
            where = zip(rows, positions, strict=True)
            await self.outbox.mark_published({row.row_id: place for row, place in where})
            for log in self.broker.log("images.uploaded"):
                log.clear()
            self.log.write("images.uploaded", len(stories))

    def keep(self, *events: Event) -> None:
        for event in events:
            self.tables.write(event)

    async def ticks(self, count: int = 6) -> None:
        for _ in range(count):
            await self.reconciler.tick(self.lease)
            await self.clock.advance(5)

    def brought_back(self) -> list[Event]:
        topics = ("images.uploaded", "inspections.requested", "images.scored")
        return [decode(record) for topic in topics for record in self.broker.records(topic)]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def answered(story: Story) -> list[Event]:
    scored = story.scored("NG")
    return [story.embedded(), scored, story.explained(scored)]


async def test_an_image_that_every_group_has_passed_without_an_answer_comes_back_once(
    rig: Rig,
) -> None:
    lost, whole = Story("lost"), Story("whole", received_s=1)
    await rig.accept(lost, whole)
    rig.keep(*answered(whole))
    rig.log.read_all()
    await rig.ticks()
    assert rig.brought_back() == [lost.uploaded]
    assert b'reconciled_total{stage="embed"} 1.0' in rig.telemetry.exposition()
    rig.keep(*answered(lost))
    await rig.ticks(30)
    assert len(rig.brought_back()) == 1


async def test_what_waits_in_a_backlog_is_left_alone_however_long(rig: Rig) -> None:
    stories = [Story(f"P-{n}", received_s=n) for n in range(6)]
    await rig.accept(*stories)
    rig.log.read_all("record")
    for place in ("embed", "anomaly"):
        rig.log.position[group_of(place), "images.uploaded"] = 3
    await rig.ticks(200)
    assert rig.brought_back() == []
    rig.log.read_all("embed", "anomaly", "llm")
    for story in stories:
        rig.keep(*answered(story))
    await rig.ticks()
    assert rig.brought_back() == []


async def test_an_answer_that_record_has_not_read_yet_is_waited_for(rig: Rig) -> None:
    story = Story()
    await rig.accept(story)
    rig.log.read_all()
    for stage in ("embed", "anomaly"):
        for topic in outputs_of(stage):
            rig.log.write(topic)
    await rig.ticks(50)
    assert rig.brought_back() == []
    rig.log.read_all("record")
    await rig.ticks()
    assert rig.brought_back() == [story.uploaded]


async def test_what_the_relay_has_not_sent_yet_is_the_relays_business(rig: Rig) -> None:
    await rig.accept(Story(), publish=False)
    rig.log.read_all()
    await rig.ticks(20)
    assert rig.brought_back() == []


async def test_records_that_were_deleted_unread_come_back_at_the_logs_end(rig: Rig) -> None:
    story = Story()
    await rig.accept(story)
    # Retention moved the start past the group, whose worker stands still until it is moved.
    rig.log.first["images.uploaded"] = rig.log.end["images.uploaded"]
    rig.log.position[group_of("embed"), "images.uploaded"] = 0
    await rig.ticks()
    assert rig.brought_back() == [story.uploaded]


async def test_a_topic_made_anew_voids_what_was_marked_on_the_old_one(rig: Rig) -> None:
    story = Story()
    await rig.accept(story)
    rig.log.write("images.uploaded", 50)
    await rig.ticks(2)
    assert rig.brought_back() == []
    rig.log.end["images.uploaded"] = 0
    await rig.ticks()
    assert rig.brought_back() == [story.uploaded]


async def test_a_position_beyond_a_new_topics_end_counts_as_nothing_read(rig: Rig) -> None:
    await rig.accept(Story())
    rig.log.read_all()
    rig.log.position[group_of("embed"), "images.uploaded"] = 900
    rig.log.position[group_of("anomaly"), "images.uploaded"] = 900
    await rig.ticks(20)
    assert rig.brought_back() == []


async def test_expired_offsets_are_no_loss_as_long_as_the_log_still_holds_the_image(
    rig: Rig,
) -> None:
    await rig.accept(Story())
    await rig.ticks(20)
    assert rig.brought_back() == []


async def test_a_verdict_that_the_report_stage_missed_is_published_as_it_was(rig: Rig) -> None:
    story = Story()
    scored = story.scored("NG")
    await rig.accept(story)
    rig.keep(story.embedded(), scored)
    rig.log.read_all()
    await rig.ticks()
    assert rig.brought_back() == [scored]


async def test_a_request_that_was_lost_is_asked_again(rig: Rig) -> None:
    story = Story()
    await rig.accept(story)
    rig.keep(*answered(story))
    request = story.requested(10)
    rig.keep(request)
    rig.log.read_all()
    await rig.ticks()
    assert rig.brought_back() == [request]


async def test_the_upload_of_a_direct_publisher_that_only_record_missed_comes_back(
    rig: Rig,
) -> None:
    story = Story()
    rig.keep(*answered(story))
    rig.log.read_all()
    await rig.ticks()
    assert rig.brought_back() == [story.uploaded]


async def test_a_skip_or_a_dead_letter_is_an_answer(rig: Rig) -> None:
    story = Story()
    await rig.accept(story)
    rig.keep(story.buried("embed"), story.skipped("anomaly"))
    rig.log.read_all()
    await rig.ticks(20)
    assert rig.brought_back() == []


async def test_a_young_image_is_not_even_looked_for_in_the_log(rig: Rig) -> None:
    await rig.accept(Story(received_s=3600 - 30))
    rig.log.read_all()
    await rig.ticks(5)
    assert (rig.brought_back(), rig.log.asked) == ([], 0)
    await rig.ticks(8)
    assert len(rig.brought_back()) == 1


async def test_many_lost_images_come_back_a_few_at_a_time(rig: Rig) -> None:
    stories = [Story(f"P-{n}", received_s=n) for n in range(20)]
    await rig.accept(*stories)
    rig.log.read_all()
    seen = []
    for _ in range(40):
        before = len(rig.brought_back())
        await rig.ticks(1)
        seen.append(len(rig.brought_back()) - before)
    assert max(seen) <= 4
    assert {e.event_id for e in rig.brought_back()} == {s.uploaded.event_id for s in stories}


async def test_a_stage_that_never_answers_is_asked_three_times_and_then_named(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.accept(Story())
    rig.log.read_all()
    await rig.ticks(500)
    assert len(rig.brought_back()) == 3
    assert [r.action for r in caplog.records if r.levelname == "ERROR"] == ["reconciler_gives_up"]  # type: ignore[attr-defined]  # given as `extra`


async def test_one_stage_before_a_backlog_does_not_hide_what_another_one_lost(rig: Rig) -> None:
    waiting = [Story(f"W-{n}", received_s=n) for n in range(9)]
    lost = Story("lost", received_s=100)
    await rig.accept(*waiting, lost)
    for story in waiting:
        rig.keep(story.embedded(), story.scored("NG"))
    rig.log.write("images.scored", 9)
    rig.log.read_all("record", "embed", "anomaly")
    await rig.ticks(20)
    assert lost.uploaded in rig.brought_back()
    assert {e.event_id for e in rig.brought_back()} == {lost.uploaded.event_id}


async def test_a_reconciler_that_lost_its_lease_publishes_nothing(rig: Rig) -> None:
    await rig.accept(Story())
    rig.log.read_all()
    rig.lease.is_lost = True
    with pytest.raises(DependencyDownError):
        await rig.ticks(5)
    assert rig.brought_back() == []


async def test_a_cluster_that_refuses_to_tell_ends_no_role(rig: Rig) -> None:
    await rig.accept(Story())
    rig.log.read_all()
    rig.log.refuses = True
    task = asyncio.create_task(rig.reconciler.run())
    await rig.clock.advance(20)
    assert not task.done()
    rig.log.refuses = False
    await rig.clock.advance(40)
    assert len(rig.brought_back()) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
