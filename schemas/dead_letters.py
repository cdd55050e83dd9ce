"""An event that a stage could not settle, kept whole with its reason."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from schemas.event import Event
from schemas.subject import Subject, UtcDatetime, WireModel


class Origin(WireModel):
    """The record as it lay in the log; bytes are base64.

    `omitted` names what was too large to be kept here; it lies at the origin.
    """

    topic: str
    partition: int
    offset: int
    key: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    value: str | None = None
    omitted: tuple[Literal["headers", "value"], ...] = ()


class DeadLetter(Event):
    """`reason` is a stable slug that pages and filters use, such as `sha256_mismatch`."""

    stage: str
    origin: Origin
    reason: str
    error_class: str
    error_text: str
    attempts: int
    first_attempt_at: UtcDatetime
    last_attempt_at: UtcDatetime
    subject: Subject | None = None
    trigger_event_id: UUID | None = None
    origin_event_id: UUID | None = None
    origin_at: UtcDatetime | None = None
