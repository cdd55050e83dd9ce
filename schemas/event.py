"""Base of every event: one past-tense fact with an id that decides what 'the same' means."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha1
from typing import Any, ClassVar
from uuid import UUID

from pydantic import Field

from schemas.subject import Subject, UtcDatetime, WireModel

# Fixed for ever: changing it would give every replayed event a new identity.
NAMESPACE = UUID("6f7c1b0e-6a52-5d7e-9d5b-6c1f5b1f0a11")
_NAMESPACE_BYTES = NAMESPACE.bytes
# Where RFC 4122 keeps version 5 and its own variant, among the 128 bits.
_FREE_BITS = ~(0xF << 76 | 0x3 << 62)
_VERSION_5 = 0x5 << 76 | 0x2 << 62


class Event(WireModel):
    """A fact. The first event of an `event_id` wins, everywhere."""

    type_name: ClassVar[str]

    event_id: UUID
    occurred_at: UtcDatetime

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Name the wire type after the class."""
        super().__init_subclass__(**kwargs)
        cls.type_name = cls.__name__


class ImageEvent(Event):
    """A fact about one image."""

    subject: Subject


class StageEvent(ImageEvent):
    """What a stage says of an image.

    `trigger_event_id` is the event that the stage consumed; `origin_event_id` and `origin_at`
    name the upload or the request at the root of the chain: the result with the newest origin
    is the current one, in whatever order results arrive. `timings_ms` names what took how long
    (`load`, `infer`, `save`); like `occurred_at` it differs between runs.
    """

    stage: str
    trigger_event_id: UUID
    origin_event_id: UUID
    origin_at: UtcDatetime
    timings_ms: dict[str, float] = Field(default_factory=dict)


def name_based_id(name: str) -> UUID:
    """As `uuid.uuid5(NAMESPACE, name)` in a third of its time: every event needs one."""
    digest = sha1(_NAMESPACE_BYTES + name.encode(), usedforsecurity=False).digest()
    return UUID(int=int.from_bytes(digest[:16]) & _FREE_BITS | _VERSION_5)


def derived_event_id(stage: str, trigger_event_id: UUID, suffix: str = "") -> UUID:
    """Identity of what `stage` makes of a trigger: equal on every redelivery."""
    return name_based_id(f"{stage}:{trigger_event_id}{suffix}")


def uploaded_event_id(image_id: str) -> UUID:
    """Identity of the upload event of an image, also where its publisher left it out."""
    return name_based_id(image_id)


def act_event_id(idempotency_key: str) -> UUID:
    """Identity of a human act that was sent with an Idempotency-Key."""
    return name_based_id(f"act:{idempotency_key}")


def origin_of(event: ImageEvent) -> dict[str, object]:
    """Origin fields that a stage's output inherits from the event that triggered it."""
    if isinstance(event, StageEvent):
        return {"origin_event_id": event.origin_event_id, "origin_at": event.origin_at}
    return {"origin_event_id": event.event_id, "origin_at": event.occurred_at}


def result_fields(stage: str, trigger: ImageEvent, now: datetime) -> dict[str, Any]:
    """Fields that everything a stage says of an image carries, from the event that it consumed."""
    return {
        "event_id": derived_event_id(stage, trigger.event_id),
        "occurred_at": now,
        "subject": trigger.subject,
        "stage": stage,
        "trigger_event_id": trigger.event_id,
        **origin_of(trigger),
    }
