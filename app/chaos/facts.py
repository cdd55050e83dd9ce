"""What a run left behind, as plain facts: gathered by independent clients, judged by the ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.event import Event
from schemas.message import Position, TopicPartition


@dataclass(frozen=True, slots=True)
class Sent:
    """An upload that was answered with 202.

    A station's uploads are numbered in the order of their answers; each was sent after the
    answer to the one before. `buries` names the dead letters that its bytes must end in,
    stage → reason; empty for a good picture.
    """

    image_id: str
    sha256: str
    station: str
    number: int
    buries: Mapping[str, str] = field(default_factory=dict)


class Entry(NamedTuple):
    """One record of the log; `event` is None where the record is no event of its topic."""

    topic: str
    partition: int
    offset: int
    key: str
    event: Event | None

    @property
    def place(self) -> Position:
        """Where it lies."""
        return Position(self.topic, self.partition, self.offset)


class Row(NamedTuple):
    """One row of a table of results; what a table does not have is None."""

    table: str
    event_id: str | None
    image_id: str | None
    type_name: str | None = None
    stage: str | None = None
    trigger_id: str | None = None
    verdict: str | None = None


class Judgement(NamedTuple):
    """What one bank says of some bytes while nothing disturbs it."""

    verdict: str
    score: float


@dataclass(frozen=True, slots=True)
class CommitSeen:
    """Positions of a stage's group, and the ends of all topics read after them."""

    stage: str
    committed: Mapping[TopicPartition, int]
    ends: Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class FeedSeen:
    """What a client of the feed got that came back by position whenever its line was cut.

    `start` and `end` are the positions between which everything was owed; `gaps` counts the
    times the server said `recovered: false`.
    """

    start: Mapping[TopicPartition, int]
    end: Mapping[TopicPartition, int]
    seen: Collection[tuple[str, str]]
    gaps: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the ledger looks at.

    Attributes:
        sent: every upload that was answered with 202.
        acted: event ids of reviews that were answered with 201.
        log: every record of every topic, in log order per partition.
        rows: every row of the tables of results.
        statuses: image id → what `GET` says at rest, `missing` where it knows none.
        judgements: (sha256, bank version) → the right verdict.
        planted: records put straight into the log → the dead letters they must end in,
            stage → reason.
        held: stage → records that still wait for a second try; none where a run came to rest.
        commits: positions of groups, seen while faults went on.
        indexed: case ids that the search index holds, one a vector.
        feed: what the feed's client got, None where nobody listened.
    """

    sent: Sequence[Sent] = ()
    acted: Sequence[str] = ()
    log: Sequence[Entry] = ()
    rows: Sequence[Row] = ()
    statuses: Mapping[str, str] = field(default_factory=dict)
    judgements: Mapping[tuple[str, str], Judgement] = field(default_factory=dict)
    planted: Mapping[Position, Mapping[str, str]] = field(default_factory=dict)
    held: Mapping[str, int] = field(default_factory=dict)
    commits: Sequence[CommitSeen] = ()
    indexed: Sequence[str] | None = None
    feed: FeedSeen | None = None
