"""Dead letters to be read and put back: what the tables are asked for, and what settles one."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol
from uuid import UUID

from pipeline.sealing import reopen
from schemas.dead_letters import DeadLetter
from schemas.event import derived_event_id
from schemas.message import Message, Record
from schemas.replays import REPLAY_OF
from schemas.topics import TOPICS

# open: nothing was done. replayed: put back; its answer, or its next letter, is awaited or there.
# resolved: its stage has settled the record, so it counts as a dead letter no more.
LetterState = Literal["open", "replayed", "resolved"]
Action = Literal["stop", "resume"]


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters; absent fields match all. Times are aware UTC, of the burial."""

    stage: str | None = None
    reason: str | None = None
    product: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    state: LetterState | None = None


@dataclass(frozen=True, slots=True)
class ReplayOrder:
    """What is to be put back: letters by id, else all open ones that a filter matches.

    With `again` also those that were put back before and that nothing has come of yet.
    """

    replay_id: str
    requested_by: str
    requested_at: datetime
    rate_per_s: float
    reason: str | None = None
    letter_ids: tuple[str, ...] | None = None
    letter_filter: LetterFilter = LetterFilter()
    again: bool = False


class PutBack(NamedTuple):
    """One letter's way back: its message, or why it was passed over."""

    letter_id: str
    message: Message | None = None
    answer_id: str | None = None
    passed_over: str | None = None


class DeadLetters(Protocol):
    """Dead letters as the tables hold them."""

    async def list(
        self, letter_filter: LetterFilter, *, cursor: str | None, limit: int
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        """Return a page, newest first, and the cursor of the next one."""
        ...

    async def counts(self, letter_filter: LetterFilter) -> Sequence[dict[str, Any]]:
        """Count by stage and reason, per state, whatever stage, reason and state are asked for."""
        ...

    async def get(self, letter_id: str) -> dict[str, Any] | None:
        """Return one letter with its history, None if unknown."""
        ...


class Replays(Protocol):
    """Replays as people ask for them and watch them."""

    async def begin(self, order: ReplayOrder, *, dry_run: bool) -> dict[str, Any]:
        """Fix the letters of a replay and let it run; the same `replay_id` begins only once.

        Returns `letters`, how many it takes, and `left_out`, how many of those named it does
        not take, by reason. With `dry_run`, or without any letter to take, nothing is written.
        """
        ...

    async def list(self, *, limit: int, offset: int) -> Sequence[dict[str, Any]]:
        """Return replays, newest first, each with its progress."""
        ...

    async def get(self, replay_id: str) -> dict[str, Any] | None:
        """Return one replay with its progress and what came of its letters, None if unknown."""
        ...

    async def steer(self, replay_id: str, action: Action, by: str) -> None:
        """Stop a running replay, or let a stopped one go on; otherwise nothing changes."""
        ...


class ReplayWork(Protocol):
    """What the runner of replays works through."""

    async def running(self) -> Mapping[str, float]:
        """Return the replays that have letters left, oldest first, with letters a second."""
        ...

    async def due(self, replay_id: str, limit: int) -> Sequence[DeadLetter]:
        """Return its next letters, oldest first."""
        ...

    async def put_back(self, replay_id: str, letters: Sequence[PutBack]) -> int:
        """Write outbox rows and the marks on letters and replay in one transaction.

        A letter that was put back or passed over before, or whose replay was stopped, is left
        alone; one that was settled meanwhile is passed over. Returns how many were put back.
        """
        ...

    def replay_lease(self) -> AbstractAsyncContextManager[None]:
        """Wait to be the only runner, and stay it until the context ends."""
        ...


def record_of(letter: DeadLetter) -> Record:
    """Return the record as the letter keeps it; without what was omitted."""
    origin = letter.origin
    return Record(
        origin.topic,
        origin.partition,
        origin.offset,
        None if origin.key is None else b64decode(origin.key),
        None if origin.value is None else b64decode(origin.value),
        tuple((name, b64decode(content)) for name, content in origin.headers),
        int(letter.first_attempt_at.timestamp() * 1000),
    )


def is_whole(letter: DeadLetter) -> bool:
    """Whether the letter keeps all of its record."""
    if letter.origin.omitted:
        return False
    # Letters of before `omitted` tell only by their reason that there was no value at all.
    return letter.origin.value is not None or letter.reason == "null_value"


def answer_of(letter: DeadLetter) -> str | None:
    """Return the id of the event that settles a letter, None where its record is no event.

    A stage's output is named after what triggered it; the record stage keeps the event itself.
    """
    trigger_id = letter.trigger_event_id
    return None if trigger_id is None else answer_to(letter.stage, trigger_id)


def answer_to(stage: str, trigger_id: UUID) -> str:
    """Return the id of the event by which `stage` settles a trigger."""
    return str(trigger_id if stage == "record" else derived_event_id(stage, trigger_id))


def former_of(letter: DeadLetter) -> str | None:
    """Return the letter whose replay this one is, None for a first burial."""
    for name, content in letter.origin.headers:
        if name == REPLAY_OF:
            return b64decode(content).decode("utf-8", "replace")[:36]
    return None


def product_of(letter: DeadLetter) -> str | None:
    """Return the product that a letter is about, None where nobody can tell."""
    if letter.subject is not None:
        return letter.subject.product
    if letter.trigger_event_id is None:
        return None
    product = getattr(reopen(record_of(letter)), "product", None)
    return product if isinstance(product, str) else None


def is_state(topic: str) -> bool:
    """Whether a topic holds state: an old record put back there would undo newer ones."""
    row = TOPICS.get(topic)
    return row is not None and row.compacted
