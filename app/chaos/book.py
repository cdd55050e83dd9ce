"""The log of a run, sorted for the ledger: what each stage owed, and what it answered.

A stage owes each event that it consumes exactly one answer, a result, a skip or a dead letter,
under an id that derives from the event's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from app.chaos.facts import Entry, Facts, Sent
from schemas.dead_letters import DeadLetter
from schemas.event import Event, StageEvent
from schemas.images import InspectionRequested
from schemas.message import Position
from schemas.topics import triggers_of

Kind = Literal[
    "lost",  # accepted, due or registered, and not there
    "wrong result",  # on other bytes than were sent, or not what the bank says of them
    "wrong dead letter",  # a good picture buried, or a bad one for another reason
    "unequal duplicate",  # the same fact under two ids, or two facts under one
    "double row",
    "order",  # of a key, on first delivery
    "early commit",  # a position past work whose answer was not in the log
    "miscount",  # in is not out + held + dead letters
    "feed gap",
]
ANSWERING = ("embed", "anomaly", "llm")


class Violation(NamedTuple):
    """One broken promise."""

    kind: Kind
    detail: str


class Owed(NamedTuple):
    """What a stage owes an answer to: an event by its id, a record that is none by its place."""

    stage: str
    what: str | Position


class Book:
    """The log, sorted for the checks."""

    def __init__(self, facts: Facts) -> None:
        """Read the log once."""
        self.facts = facts
        self.sent: dict[str, Sent] = {one.image_id: one for one in facts.sent}
        self.first: dict[tuple[str, str], Entry] = {}
        self.events: dict[str, Event] = {}
        self.due: dict[Owed, list[Entry]] = defaultdict(list)
        self.answers: dict[Owed, list[Entry]] = defaultdict(list)
        for entry in facts.log:
            self._enter(entry)

    def _enter(self, entry: Entry) -> None:
        event = entry.event
        if event is not None:
            event_id = str(event.event_id)
            self.first.setdefault((entry.topic, event_id), entry)
            self.events.setdefault(event_id, event)
            owed = answered_by(event)
            if owed is not None:
                self.answers[owed].append(entry)
        for stage in ANSWERING:
            if entry.topic in triggers_of(stage) and _is_meant(stage, event):
                what = entry.place if event is None else str(event.event_id)
                self.due[Owed(stage, what)].append(entry)

    def of_type(self, kind: type[Event]) -> Iterator[tuple[Entry, Any]]:
        """First deliveries of one type of event, in log order per partition."""
        for entry in self.first.values():
            if isinstance(entry.event, kind):
                yield entry, entry.event


def answered_by(event: Event) -> Owed | None:
    """Return what an event answers, None where it answers nothing."""
    if isinstance(event, DeadLetter) and event.stage in ANSWERING:
        if event.trigger_event_id is not None:
            return Owed(event.stage, str(event.trigger_event_id))
        origin = event.origin
        return Owed(event.stage, Position(origin.topic, origin.partition, origin.offset))
    if isinstance(event, StageEvent) and event.stage in ANSWERING:
        return Owed(event.stage, str(event.trigger_event_id))
    return None


def _is_meant(stage: str, event: Event | None) -> bool:
    return not isinstance(event, InspectionRequested) or event.stage == stage


def name_of(entry: Entry) -> str:
    """Name an entry for people: what it is, about what, and where it lies."""
    event = entry.event
    place = f"{entry.topic}[{entry.partition}]@{entry.offset}"
    if event is None:
        return place
    subject = getattr(event, "subject", None)
    about = f" of {subject.image_id}" if subject else ""
    return f"{event.type_name} {event.event_id}{about} ({place})"
