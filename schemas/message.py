"""A Kafka record as the pipeline sees it, free of any client library."""

from __future__ import annotations

from typing import NamedTuple

Headers = tuple[tuple[str, bytes], ...]


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class Position(NamedTuple):
    """Where a message lies in the log."""

    topic: str
    partition: int
    offset: int


class Message(NamedTuple):
    """What is to be published."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Record(NamedTuple):
    """What was read. `timestamp_ms` is the broker's append time, Unix milliseconds UTC."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition that the record lies in."""
        return TopicPartition(self.topic, self.partition)

    def header(self, name: str) -> str | None:
        """Value of the first header of that name, or None; undecodable bytes count as absent."""
        for key, value in self.headers:
            if key == name:
                return value.decode("utf-8", "replace")
        return None
