"""Dead letters: what an event that cannot be settled becomes, and when to stop burying."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pipeline.errors import StalledError
from pipeline.sealing import reopen
from pipeline.work import Work
from schemas.dead_letters import DeadLetter, Origin
from schemas.event import Event, ImageEvent, derived_event_id, name_based_id, origin_of
from schemas.message import Record
from schemas.replays import REPLAY_OF, REPLAY_RUN, is_replay_header

# Base64 of more would not fit into one message; the record itself stays in its topic.
_VALUE_KEPT_BYTES = 600_000
_HEADERS_KEPT_BYTES = 60_000
_TEXT_KEPT = 2000


def dead_letter(
    work: Work, *, stage: str, reason: str, error: Exception, now: datetime
) -> DeadLetter:
    """Return the event that keeps a record, whole, with what it failed on."""
    record = work.record
    event = work.event or reopen(record)
    value = record.value or b""
    text = str(error)[:_TEXT_KEPT]
    if len(value) > _VALUE_KEPT_BYTES:
        text += f" (its {len(value)} bytes are not kept here; they lie at the origin)"
    return DeadLetter(
        event_id=_identity(stage, event, record),
        occurred_at=now,
        stage=stage,
        origin=origin_of_record(record),
        reason=reason,
        error_class=f"{type(error).__module__}.{type(error).__qualname__}",
        error_text=text,
        attempts=max(1, work.attempts),
        first_attempt_at=work.first_attempt_at or now,
        last_attempt_at=now,
        **_about(event),
    )


def _identity(stage: str, event: Event | None, record: Record) -> object:
    """Equal on redelivery, another one for a replay that fails again.

    A replay is named by itself: published twice by its relay, it still returns as one letter.
    """
    place = f":dead-letter:{record.topic}:{record.partition}:{record.offset}"
    run = record.header(REPLAY_RUN)
    if run is not None:
        place = f":dead-letter:replay:{run}:{record.header(REPLAY_OF)}"
    if event is not None:
        return derived_event_id(stage, event.event_id, place)
    digest = hashlib.sha256(record.value or b"").hexdigest()
    return name_based_id(f"{stage}:{digest}{place}")


def _about(event: Event | None) -> dict[str, object]:
    if event is None:
        return {}
    about: dict[str, object] = {"trigger_event_id": event.event_id}
    if isinstance(event, ImageEvent):
        about |= {"subject": event.subject, **origin_of(event)}
    return about


def origin_of_record(record: Record) -> Origin:
    """Return the record as it lay in the log, bytes as base64."""
    value = record.value
    kept = value is not None and len(value) <= _VALUE_KEPT_BYTES
    room = _HEADERS_KEPT_BYTES
    headers = []
    for name, content in record.headers:
        room -= len(name) + len(content)
        if room >= 0 or is_replay_header(name):
            headers.append((name, b64encode(content).decode()))
    too_large: dict[Literal["headers", "value"], bool] = {
        "headers": room < 0,
        "value": value is not None and not kept,
    }
    return Origin(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=None if record.key is None else b64encode(record.key).decode(),
        headers=tuple(headers),
        value=b64encode(value).decode() if value is not None and kept else None,
        omitted=tuple(name for name, is_so in too_large.items() if is_so),
    )


@dataclass(frozen=True, slots=True)
class BurialLimit:
    """When a stage is broken rather than its events: it stops instead of burying everything.

    Only burials that speak against the stage or its world count (`bug`, `retries_exhausted`),
    not those whose event is proven guilty, unless `count_poison`.

    Attributes:
        consecutive: burials in a row that stop the stage, None for no such limit.
        ratio: share of the last `window` events that stops it, None for no such limit.
        window: how many events `ratio` looks back on.
        count_poison: whether guilty events count as well.
    """

    consecutive: int | None = 50
    ratio: float | None = None
    window: int = 200
    count_poison: bool = False


class BurialWatch:
    """Counts burials against a limit; pure."""

    def __init__(self, limit: BurialLimit | None) -> None:
        """Watch nothing where `limit` is None."""
        self._limit = limit
        self._row = 0
        self._recent: deque[bool] = deque(maxlen=limit.window if limit else 1)

    def settled(self, count: int = 1) -> None:
        """Note events that were settled."""
        self._row = 0
        if self._limit is not None and self._limit.ratio is not None:
            self._recent.extend([False] * count)

    def burying(self, reason: str) -> None:
        """Note a burial before it is published.

        Raises:
            StalledError: the limit is reached; the event stays uncommitted.
        """
        limit = self._limit
        if limit is None or not (limit.count_poison or reason in ("bug", "retries_exhausted")):
            return
        self._row += 1
        self._recent.append(True)
        if limit.consecutive is not None and self._row >= limit.consecutive:
            raise StalledError(
                f"{self._row} events in a row could not be settled, the last one for {reason}: "
                "correct the stage, then start it again; nothing was lost"
            )
        full = len(self._recent) == limit.window
        if limit.ratio is not None and full and sum(self._recent) >= limit.ratio * limit.window:
            raise StalledError(
                f"{sum(self._recent)} of the last {limit.window} events could not be settled: "
                "correct the stage, then start it again; nothing was lost"
            )
