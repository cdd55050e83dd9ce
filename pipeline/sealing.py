"""Events become messages as soon as they are made, while they are hot in the processor's caches."""

from __future__ import annotations

from schemas.codec import MalformedEventError, decode, encode
from schemas.event import Event
from schemas.message import Message, Record


def seal(stage: str, trigger: Record, output: Event | None) -> Message | None:
    """Return the message of what `stage` made of `trigger`, on the same trace; None for nothing.

    Raises:
        KeyError: no topic carries such an event.
    """
    if output is None:
        return None
    return encode(output, source=f"/lineside/{stage}", traceparent=trigger.header("traceparent"))


def reopen(record: Record) -> Event | None:
    """Return the event of a record whose decoded form was let go, None if it is none."""
    try:
        return decode(record)
    except MalformedEventError:
        return None
