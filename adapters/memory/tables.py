"""The tables as dictionaries: what the three table ports share in tests and scenarios."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pipeline.image_view import ImageFacts, ImageSummary, Kept, summarise
from pipeline.status import act_of, is_quiet, outcome_of, trigger_of
from schemas.configuration import (
    BankPublished,
    CaseRegistered,
    ManualPublished,
    ProductConfigured,
)
from schemas.dead_letters import DeadLetter
from schemas.event import Event, StageEvent
from schemas.images import ImageUploaded, InspectionRequested
from schemas.reviews import ReviewRecorded
from schemas.subject import Subject

_OF_IMAGE = (StageEvent, InspectionRequested, ReviewRecorded, DeadLetter)
_STATES = (BankPublished, CaseRegistered, ManualPublished)


@dataclass(slots=True)
class ImageRow:
    """One image: its subject, its upload once that is known, and everything else about it."""

    subject: Subject
    state: str
    upload: ImageUploaded | None = None
    events: dict[str, Event] = field(default_factory=dict)

    def facts(self) -> ImageFacts:
        """Return what is known, as the pure functions of `pipeline` take it."""
        events = self.events.values()
        requests = (trigger_of(event) for event in events)
        outcomes = (outcome_of(event) for event in events)
        acts = (act_of(event) for event in events)
        return ImageFacts(
            trigger_of(self.upload) if self.upload else None,
            [trigger for trigger in requests if trigger is not None],
            [outcome for outcome in outcomes if outcome is not None],
            [act for act in acts if act is not None],
            quiet=is_quiet(self.subject),
        )

    def summary(self) -> ImageSummary:
        """Return where the image stands."""
        return summarise(self.facts())

    def kept(self) -> dict[str, Kept]:
        """Return the events as they would be stored."""
        return {
            event_id: Kept(event.type_name, as_json(event))
            for event_id, event in self.events.items()
        }


@dataclass(slots=True)
class MemoryTables:
    """All tables; hand the same object to the outbox, the inspections and the catalogue."""

    images: dict[str, ImageRow] = field(default_factory=dict)
    # The newest event of each (type, key); orphans are dead letters without an image.
    states: dict[tuple[type[Event], str], Event] = field(default_factory=dict)
    orphans: dict[str, Event] = field(default_factory=dict)
    defect_types: list[dict[str, Any]] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)

    def write(self, event: Event) -> bool:
        """Write one event; returns whether it was new."""
        if isinstance(event, ImageUploaded):
            return self._upload(event)
        if isinstance(event, _OF_IMAGE):
            return self._about_image(event)
        if isinstance(event, ProductConfigured):
            known = self.states.get((ProductConfigured, event.product))
            newer = not isinstance(known, ProductConfigured) or known.revision < event.revision
            return self._state(event, event.product, newer=newer)
        if isinstance(event, _STATES):
            key = state_key(event)
            older = self.states.get((type(event), key))
            newer = older is None or older.occurred_at < event.occurred_at
            return self._state(event, key, newer=newer)
        return False

    def _upload(self, event: ImageUploaded) -> bool:
        image_id = event.subject.image_id
        row = self.images.setdefault(image_id, ImageRow(event.subject, "accepted"))
        if row.state == "accepted" and row.upload is not None:
            return False
        row.subject, row.upload, row.state = event.subject, event, "accepted"
        return True

    def _about_image(self, event: Event) -> bool:
        subject = getattr(event, "subject", None)
        if isinstance(subject, Subject):
            row = self.images.setdefault(subject.image_id, ImageRow(subject, "accepted"))
            events = row.events
        else:
            events = self.orphans
        is_new = str(event.event_id) not in events
        events.setdefault(str(event.event_id), event)
        return is_new

    def _state(self, event: Event, key: str, *, newer: bool) -> bool:
        if newer:
            self.states[type(event), key] = event
        return newer

    def accepted(self) -> Collection[ImageRow]:
        """Images that were accepted, or that only their results tell of."""
        return [row for row in self.images.values() if row.state == "accepted"]


def state_key(event: BankPublished | CaseRegistered | ManualPublished) -> str:
    """Return what a state is keyed by, as its topic is."""
    if isinstance(event, BankPublished):
        return f"{event.product}/{event.version}"
    return event.case_id if isinstance(event, CaseRegistered) else event.manual_id


def as_json(event: Event | Subject) -> dict[str, Any]:
    """Return an event as a reader of its JSON sees it."""
    value: dict[str, Any] = json.loads(event.model_dump_json())
    return value
