"""Side topics: what a replay makes, beside the one table, so that no role ever reads it.

A side topic is `replays.<name>`. It carries all that a stage says, dead letters included, so each
record's `ce_type` header tells what it holds.
"""

from __future__ import annotations

import re

from schemas.anomalies import ImageScored
from schemas.dead_letters import DeadLetter
from schemas.embeddings import ImageEmbedded
from schemas.event import Event
from schemas.images import ImageSkipped
from schemas.message import Record
from schemas.reports import ImageExplained
from schemas.topics import DAY_MS, Topic

_PREFIX = "replays."
_RETENTION_MS = 30 * DAY_MS
_NAME = re.compile(r"(?=.{1,64}$)[a-z0-9]+(-[a-z0-9]+)*")
_CARRIED: dict[str, type[Event]] = {
    event.type_name: event
    for event in (ImageScored, ImageSkipped, ImageEmbedded, ImageExplained, DeadLetter)
}


def check_replay_name(name: str) -> str:
    """Return the name of a replay, or raise ValueError saying what is allowed."""
    if not _NAME.fullmatch(name):
        message = "a replay's name is 1-64 small letters and digits, parted by single hyphens"
        raise ValueError(message)
    return name


def side_topic(name: str) -> Topic:
    """Return the row of a replay's topic, as one of the table would be.

    Raises:
        ValueError: no such name can be.
    """
    topic = _PREFIX + check_replay_name(name)
    return Topic(topic, Event, _RETENTION_MS, ("replay",), (), lambda _: "", "as the live output")


def replay_of(topic: str) -> str | None:
    """Return the name of the replay that a topic holds, None for any other topic."""
    if not topic.startswith(_PREFIX):
        return None
    name = topic.removeprefix(_PREFIX)
    return name if _NAME.fullmatch(name) else None


def carried_type(record: Record) -> type[Event] | None:
    """Return the type of the event in a record of a side topic, None if it cannot be told."""
    if replay_of(record.topic) is None:
        return None
    return _CARRIED.get(record.header("ce_type") or "")
