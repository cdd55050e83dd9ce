"""A dead letter and its replays as HTTP shows them. Pure."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from pipeline.letters import is_state, record_of
from schemas.dead_letters import DeadLetter
from schemas.message import Record
from schemas.subject import rfc3339_ms

Row = Mapping[str, Any]

_DEEPEST = 50


def line_view(row: Row) -> dict[str, Any]:
    """Return one line of `GET /v1/dead-letters`."""
    image_id = row["image_id"]
    # Pictures are served of images whose row is there.
    path = f"/v1/images/{image_id}" if row["known_image"] else None
    return {
        "event_id": row["event_id"],
        "state": row["state"],
        "stage": row["stage"],
        "reason": row["reason"],
        "error_text": row["error_text"],
        "occurred_at": rfc3339_ms(row["occurred_at"]),
        "product": row["product"],
        "image_id": image_id,
        "thumbnail_url": path and f"{path}/thumbnail",
        "content_url": path and f"{path}/content",
        "part_id": row["part_id"],
        "lot_id": row["lot_id"],
        "station": row["station"],
        "topic": row["topic"],
        "partition": row["partition"],
        "offset": row["offset"],
        "is_replayable": not is_state(row["topic"]),
        "replay_of": row["replay_of"],
        "replayed_at": _time(row["replayed_at"]),
        "returned_as": row["returned_as"],
        "resolved_by": row["resolved_by"],
        "resolved_at": _time(row["resolved_at"]),
    }


def record_view(letter: DeadLetter) -> dict[str, Any]:
    """Return what the letter itself tells: the record and its failure."""
    record = record_of(letter)
    return {
        "error_class": letter.error_class,
        "error_text": letter.error_text,
        "attempts": letter.attempts,
        "first_attempt_at": rfc3339_ms(letter.first_attempt_at),
        "last_attempt_at": rfc3339_ms(letter.last_attempt_at),
        "trigger_event_id": letter.trigger_event_id and str(letter.trigger_event_id),
        "trace_id": _trace_id(record),
        "subject": letter.subject and letter.subject.model_dump(mode="json"),
        "record": {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "key": _content(record.key),
            "headers": [{"name": name, **_content(value)} for name, value in record.headers],
            "value": _content(record.value, as_json=True),
            "omitted": list(letter.origin.omitted),
        },
    }


def return_view(row: Row) -> dict[str, Any]:
    """Return one replay in a letter's history: by whom and when, and what came of it."""
    return {
        "replay_id": row["replay_id"],
        "requested_by": row["requested_by"],
        "requested_at": rfc3339_ms(row["requested_at"]),
        "reason": row["reason"],
        "put_back_at": _time(row["put_back_at"]),
        "published_at": _time(row["published_at"]),
        "topic": row["topic"],
        "partition": row["partition"],
        "offset": row["offset"],
        "outcome": _outcome(row),
        "passed_over": row["passed_over"],
        "returned_as": row["returned_as"] if row["put_back_at"] else None,
        "resolved_by": row["resolved_by"] if row["put_back_at"] else None,
    }


def _outcome(row: Row) -> str:
    if row["passed_over"] is not None:
        return "passed_over"
    if row["put_back_at"] is None:
        return "stopped" if row["state"] == "stopped" else "queued"
    if row["returned_as"] is not None:
        return "returned"
    return "waiting" if row["resolved_by"] is None else "resolved"


def _time(moment: Any) -> str | None:
    return None if moment is None else rfc3339_ms(moment)


def _trace_id(record: Record) -> str | None:
    parts = (record.header("traceparent") or "").split("-")
    return parts[1] if len(parts) == 4 else None


def _content(data: bytes | None, *, as_json: bool = False) -> dict[str, Any]:
    """Return bytes as JSON where they are, as text where that is lossless, else as base64."""
    if data is None:
        return {"encoding": "none", "data": None, "size_bytes": 0}
    told: dict[str, Any] = {"size_bytes": len(data)}
    try:
        text = data.decode("utf-8")
        if as_json and _is_shallow(text):
            value = json.loads(text, parse_constant=_refuse)
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate cannot be sent on
            return {"encoding": "json", "data": value, **told}
    except UnicodeDecodeError:
        return {"encoding": "base64", "data": b64encode(data).decode(), **told}
    except ValueError:
        pass
    return {"encoding": "text", "data": text, **told}


def _is_shallow(text: str) -> bool:
    """Whether nesting stays far from what parsers bear; brackets within strings count as well."""
    depth = 0
    for char in text:
        if char in "[{":
            depth += 1
            if depth > _DEEPEST:
                return False
        elif char in "]}":
            depth -= 1
    return True


def _refuse(constant: str) -> float:
    """NaN and the infinities are no JSON that a browser reads."""
    raise ValueError(constant)
