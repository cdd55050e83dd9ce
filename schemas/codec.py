"""Event to message and back: JSON in CloudEvents 1.0 binary mode (interfaces.md section 2)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from schemas.dead_letters import DeadLetter
from schemas.event import Event, ImageEvent, uploaded_event_id
from schemas.images import ImageUploaded
from schemas.message import Headers, Message, Record
from schemas.side_topics import carried_type
from schemas.subject import image_id
from schemas.topics import TOPICS, topic_of

# Kafka's own default limit for one message; anything larger holds pixels that belong in the store.
MAX_VALUE_BYTES = 1_000_000
_SPECVERSION = ("ce_specversion", b"1.0")
_CONTENT_TYPE = ("content-type", b"application/json")
_ABOUT_IMAGES = (ImageEvent, DeadLetter)


class MalformedEventError(ValueError):
    """The record is no event of its topic; publish it as schemas/json describes."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep `reason`, a stable slug for the dead letter, beside the sentence for people."""
        super().__init__(detail)
        self.reason = reason


def encode(event: Event, *, source: str, traceparent: str | None = None) -> Message:
    """Return the message that carries `event`.

    Args:
        event: a fact whose type has a row in `schemas.topics`.
        source: CloudEvents source, such as `/lineside/embed`.
        traceparent: W3C trace context to carry on.
    """
    topic = topic_of(event)
    headers: Headers = (
        _SPECVERSION,
        ("ce_id", str(event.event_id).encode()),
        ("ce_type", event.type_name.encode()),
        ("ce_source", source.encode()),
        ("ce_time", event.occurred_at.isoformat().encode()),
        _CONTENT_TYPE,
    )
    if isinstance(event, _ABOUT_IMAGES) and event.subject:
        headers += (("ce_subject", event.subject.image_id.encode()),)
    if traceparent:
        headers += (("traceparent", traceparent.encode()),)
    value = event.__pydantic_serializer__.to_json(event)
    return Message(topic.name, topic.key(event).encode(), value, headers)


def decode(record: Record) -> Event:
    """Return the event that a record carries.

    A direct publisher of `ImageUploaded` may leave out `event_id`, `occurred_at`, the times of
    the subject and `image_id`: they are derived from the record, so every reader derives the same.

    Raises:
        MalformedEventError: null, oversized, no JSON, or not the topic's event.
    """
    topic = TOPICS.get(record.topic)
    kind = topic.event if topic else carried_type(record)
    if kind is None:
        raise MalformedEventError("unknown_topic", f"no event is defined for {record.topic}")
    value = record.value
    if value is None:
        raise MalformedEventError("null_value", "the record has no value; publish a JSON event")
    if len(value) > MAX_VALUE_BYTES:
        detail = f"{len(value)} bytes; put pixels into the store and publish their key"
        raise MalformedEventError("oversized_value", detail)
    try:
        event: Event = kind.__pydantic_validator__.validate_json(value)
    except ValidationError as error:
        if kind is ImageUploaded:
            return _decode_sparse_upload(record, value, error)
        raise _as_malformed(error) from None
    return event


def _as_malformed(error: ValidationError) -> MalformedEventError:
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] == "json_invalid":
        return MalformedEventError("not_json", f"the value is no JSON: {first['msg']}")
    place = ".".join(str(part) for part in first["loc"])
    return MalformedEventError("schema", f"{place}: {first['msg']}")


def _decode_sparse_upload(record: Record, value: bytes, error: ValidationError) -> ImageUploaded:
    """Fill in what a direct publisher left out, from the record alone."""
    try:
        data = json.loads(value)
        subject = data["subject"]
        _fill_subject(record, subject)
        data.setdefault("event_id", str(uploaded_event_id(subject["image_id"])))
        data.setdefault("occurred_at", subject["received_at"])
        return ImageUploaded.model_validate(data)
    except ValidationError as second:
        raise _as_malformed(second) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _as_malformed(error) from None


def _fill_subject(record: Record, subject: dict[str, Any]) -> None:
    appended_at = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC).isoformat()
    captured_at = subject.get("captured_at")
    if "image_id" not in subject:
        subject["image_id"] = image_id(
            product=subject["product"],
            sha256=subject["image"]["sha256"],
            source=subject.get("source"),
            part_id=subject.get("part_id"),
            view=subject.get("view"),
            captured_at=None if captured_at is None else datetime.fromisoformat(captured_at),
            idempotency_key=subject.get("idempotency_key"),
        )
    subject.setdefault("received_at", appended_at)
    if captured_at is None:
        subject["captured_at"] = subject["received_at"]
        subject.setdefault("time_quality", "assumed")
