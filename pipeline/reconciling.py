"""When an answer will not come by itself any more. Pure; producers/reconciler.py acts on it.

A stage owes an image an answer, and the event that asks for it was in the log. Then:

    mark the log's end → the stage's group has passed the mark → mark the ends of what it
    publishes → the record group has passed those → still no answer: it is lost

No recorded position is needed, so it holds whatever happened to the log: records deleted, topics
made anew, offsets expired or moved. A backlog, a held event or an outage only make it wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import NamedTuple, Protocol

from pipeline.ports import Lease
from schemas.event import ImageEvent
from schemas.message import TopicPartition
from schemas.topics import TOPICS, topics_read_by, triggers_of

RECORD = "record"
# Which stages may owe an answer; `record` owes what fills the tables.
STAGES_ASKED = (RECORD, "embed", "anomaly", "llm")
_READ_BY_RECORD = frozenset(topics_read_by(RECORD))


class Waiting(NamedTuple):
    """A stage that owes an image an answer, and the event that makes it give one.

    `record` owes the image its upload. The event is known to have been in the log.
    """

    stage: str
    event: ImageEvent


class Unanswered(Protocol):
    """Images that wait: what the reconciler looks through."""

    async def waiting(
        self, before: datetime, *, cursor: str | None, limit: int
    ) -> tuple[Sequence[Waiting], str | None]:
        """Look at `limit` pending images that were received before then, oldest first.

        Returns what is owed to them, but for events that still wait in the outbox, and the
        cursor of the next ones, None at the end.
        """
        ...

    def reconcile_lease(self) -> AbstractAsyncContextManager[Lease]:
        """Wait to be the only reconciler, and stay it."""
        ...


class LogProgress(NamedTuple):
    """What groups have read of the log: positions were looked up before the log's ends were.

    `positions` holds what each group committed; a partition without a commit is absent.
    """

    cluster_id: str
    first: Mapping[TopicPartition, int]
    end: Mapping[TopicPartition, int]
    positions: Mapping[str, Mapping[TopicPartition, int]]


class DescribeProgress(Protocol):
    """Tells the reconciler how far groups are."""

    async def __call__(self, groups: Mapping[str, Collection[str]]) -> LogProgress:
        """Look up groups' positions in topics, and what those topics hold.

        Raises:
            DependencyDownError: the broker is away.
        """
        ...


def group_of(stage: str) -> str:
    """Return the name of a stage's consumer group."""
    return f"lineside.{stage}"


def outputs_of(stage: str) -> tuple[str, ...]:
    """Return the topics through which the tables hear of a stage."""
    return tuple(
        name
        for name, topic in TOPICS.items()
        if stage in topic.producers and name in _READ_BY_RECORD
    )


def groups_watched() -> dict[str, Collection[str]]:
    """Return the groups whose progress decides, each with the topics that matter."""
    watched: dict[str, Collection[str]] = {
        group_of(stage): triggers_of(stage) for stage in STAGES_ASKED
    }
    return watched


def has_passed(progress: LogProgress, group: str, marks: Mapping[TopicPartition, int]) -> bool:
    """Whether a group will read nothing any more that lay before the marks."""
    known = progress.positions.get(group, {})
    for place, mark in marks.items():
        first, end = progress.first.get(place, 0), progress.end.get(place, 0)
        position = known.get(place, first)
        if position > end:  # of a topic that was made anew: the group stands outside
            position = first
        if max(position, first) < mark:
            return False
    return True


class Round:
    """One stage's debts, from the first mark to the verdict on them."""

    def __init__(self, stage: str, debts: Sequence[Waiting], progress: LogProgress) -> None:
        """`progress` must have been read after `debts`."""
        self.stage = stage
        self._debts = {debt.event.event_id for debt in debts}
        self._cluster_id = progress.cluster_id
        self._asked = _ends(progress, _asked_on(stage))
        self._answered: Mapping[TopicPartition, int] | None = None
        self.is_void = False
        self.is_over = False

    def has(self, debt: Waiting) -> bool:
        """Whether it was owed at the first mark: only then can the end of the round tell of it."""
        return debt.event.event_id in self._debts

    def step(self, progress: LogProgress) -> None:
        """Go on; `is_over` then says that no answer is on its way, `is_void` to begin anew."""
        marks = {**self._asked, **(self._answered or {})}
        if progress.cluster_id != self._cluster_id or any(
            progress.end.get(place, 0) < mark for place, mark in marks.items()
        ):
            self.is_void = True
            return
        if self._answered is None:
            if not has_passed(progress, group_of(self.stage), self._asked):
                return
            if self.stage == RECORD:
                self.is_over = True
                return
            self._answered = _ends(progress, outputs_of(self.stage))
        self.is_over = has_passed(progress, group_of(RECORD), self._answered)


def _asked_on(stage: str) -> Collection[str]:
    return ("images.uploaded",) if stage == RECORD else triggers_of(stage)


def _ends(progress: LogProgress, topics: Collection[str]) -> dict[TopicPartition, int]:
    return {place: end for place, end in progress.end.items() if place.topic in topics}
