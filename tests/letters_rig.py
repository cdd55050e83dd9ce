"""Dead letters as stages make them, and what is needed to put them back."""

from __future__ import annotations

from base64 import b64decode
from datetime import datetime
from typing import Any
from uuid import uuid4

from pipeline.burial import dead_letter
from pipeline.errors import PoisonError
from pipeline.letters import LetterFilter, PutBack, ReplayOrder, answer_to, record_of
from pipeline.sealing import reopen
from pipeline.work import Work
from schemas.codec import encode
from schemas.dead_letters import DeadLetter
from schemas.event import Event
from schemas.message import Headers, Message, Record
from schemas.replays import replay_headers
from tests.story import at

# No UTF-8, as a foreign publisher may send.
FOREIGN: Headers = (("x-camera", b"\xff\x00\xfe"), ("x-empty", b""))


def record_of_event(event: Event, *, offset: int = 1, headers: Headers = ()) -> Record:
    """The record of an event as its publisher wrote it, with headers of its own."""
    message = encode(event, source="/camera", traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")
    return Record(
        message.topic, 0, offset, message.key, message.value, (*message.headers, *headers), 1000
    )


def bury(
    record: Record, stage: str, *, reason: str = "corrupt_image", when: datetime | None = None
) -> DeadLetter:
    """What `stage` makes of a record that it cannot settle."""
    nowhere: Any = None
    work = Work(record, nowhere, nowhere)
    work.attempts = 1
    error = PoisonError(reason, "the picture cannot be read")
    return dead_letter(work, stage=stage, reason=reason, error=error, now=when or at(1))


def order(*letters: DeadLetter, **changes: Any) -> ReplayOrder:
    """Somebody wants these put back, or all that are open."""
    given: dict[str, Any] = {
        "replay_id": str(uuid4()),
        "requested_by": "kim",
        "requested_at": at(100),
        "rate_per_s": 1000.0,
        "letter_ids": tuple(str(letter.event_id) for letter in letters) or None,
        "letter_filter": LetterFilter(),
    }
    return ReplayOrder(**given | changes)


def put_back(letter: DeadLetter, replay_id: str) -> PutBack:
    """A letter ready for its way back, as the runner prepares it."""
    record, letter_id = record_of(letter), str(letter.event_id)
    headers = replay_headers(
        record.headers, letter_id=letter_id, run_id=replay_id, stage=letter.stage
    )
    event = reopen(record)
    answer_id = None if event is None else answer_to(letter.stage, event.event_id)
    return PutBack(letter_id, Message(record.topic, record.key, record.value, headers), answer_id)


def came_back(message: Message, *, offset: int) -> Record:
    """A message as it lies in the log again."""
    return Record(message.topic, 0, offset, message.key, message.value, message.headers, 2000)


def kept_headers(letter: DeadLetter) -> Headers:
    """Headers of the record as the letter keeps them."""
    return tuple((name, b64decode(content)) for name, content in letter.origin.headers)
