from __future__ import annotations

import pytest

from notifier.feed import FEED_TOPICS
from schemas.codec import MalformedEventError, decode, encode
from schemas.message import Record
from schemas.side_topics import carried_type, replay_of, side_topic
from schemas.topics import TOPICS, topics_read_by, triggers_of
from tests.story import Story


@pytest.mark.parametrize("name", ["a", "bank-b", "2026-11-26", "x" * 64])
def test_a_replay_has_a_topic_of_its_own(name: str) -> None:
    topic = side_topic(name)
    assert replay_of(topic.name) == name
    assert topic.name not in TOPICS
    assert topic.retention_ms


@pytest.mark.parametrize("name", ["", "A", "a_b", "a.b", "-a", "a-", "a--b", "x" * 65, "한", "a\n"])
def test_a_name_that_cannot_be_a_topic_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="small letters"):
        side_topic(name)
    assert replay_of(f"replays.{name}") is None


def test_no_role_reads_side_topics() -> None:
    roles = {role for row in TOPICS.values() for role in (*row.consumers, *row.producers)}
    read = {name for role in roles for name in (*topics_read_by(role), *triggers_of(role))}
    assert [name for name in {*read, *FEED_TOPICS} if replay_of(name)] == []
    assert side_topic("x").consumers == ()


def test_a_side_topic_carries_whatever_its_stage_says() -> None:
    story = Story()
    events = [story.scored("NG"), story.skipped("llm"), story.embedded(), story.buried("embed")]
    events.append(story.explained(story.scored("NG")))
    for event in events:
        message = encode(event, source="/test")
        record = Record("replays.x", 0, 0, message.key, message.value, message.headers)
        assert carried_type(record) is type(event)
        assert decode(record) == event


def test_a_record_of_unknown_type_in_a_side_topic_is_malformed() -> None:
    with pytest.raises(MalformedEventError, match="no event is defined"):
        decode(Record("replays.x", 0, 0, None, b"{}", (("ce_type", b"Secret"),)))
    with pytest.raises(MalformedEventError, match="no event is defined"):
        decode(Record("replays.x", 0, 0, None, b"{}"))
