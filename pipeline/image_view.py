"""An image as HTTP shows it, from what is stored about it. Pure; both table adapters use it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pipeline.errors import RefusedError
from pipeline.status import (
    Act,
    ImageState,
    Outcome,
    Trigger,
    acknowledgement_of,
    is_open_alarm,
    judge_image,
    standing_review,
)
from schemas.subject import rfc3339_ms

_FIELD_OF = {"embed": "embedded", "anomaly": "scored", "llm": "explained"}


class Kept(NamedTuple):
    """An event as it is stored: its type's name, and its JSON."""

    type_name: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """All that is known about one image."""

    upload: Trigger | None
    requests: Sequence[Trigger]
    outcomes: Sequence[Outcome]
    acts: Sequence[Act]
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """What lists and counts need to know of an image, kept beside it in the tables."""

    status: str
    verdict: str | None
    embedded_id: str | None
    scored_id: str | None
    explained_id: str | None
    decision: str | None
    defect_type: str | None
    acknowledged_id: str | None
    acknowledged_by: str | None
    acknowledged_at: datetime | None
    is_open_alarm: bool


def summarise(facts: ImageFacts) -> ImageSummary:
    """Return the summary that follows from the facts, in whatever order they came."""
    state = judge_image(facts.upload, facts.requests, facts.outcomes)
    scored_id = state.current.get("anomaly")
    review = standing_review(facts.acts)
    seen = acknowledgement_of(facts.acts, scored_id)
    return ImageSummary(
        state.status,
        state.verdict,
        state.current.get("embed"),
        scored_id,
        state.current.get("llm"),
        review.decision if review else None,
        review.defect_type if review else None,
        seen.event_id if seen else None,
        seen.reviewer if seen else None,
        seen.at if seen else None,
        not facts.quiet and is_open_alarm(state.verdict, facts.acts, scored_id),
    )


def image_view(
    subject: dict[str, Any], facts: ImageFacts, events: Mapping[str, Kept]
) -> dict[str, Any]:
    """Return the answer of `GET /v1/images/{image_id}`; `events` are all of the image, by id."""
    state = judge_image(facts.upload, facts.requests, facts.outcomes)
    # Acknowledgements alone are told apart, by `acknowledged`.
    decided = [act for act in facts.acts if act.decision or act.undoes or act.acknowledges is None]
    decided.sort(key=lambda act: (act.at, act.event_id))
    review = standing_review(facts.acts)
    seen = acknowledgement_of(facts.acts, state.current.get("anomaly"))
    requests = sorted(facts.requests, key=lambda trigger: (trigger.at, trigger.event_id))
    return {
        "image_id": subject["image_id"],
        "status": state.status,
        "verdict": state.verdict,
        "waiting_for": list(state.waiting_for),
        "subject": subject,
        **_results(state, events),
        "skipped": _payloads(state.skipped, events),
        "reviews": _payloads((act.event_id for act in decided), events),
        "decision": events[review.event_id].payload if review else None,
        "acknowledged": acknowledged_view(
            seen and seen.event_id, seen and seen.reviewer, seen and seen.at
        ),
        "dead_letters": _payloads(state.dead_letters, events),
        "superseded": [
            {"type": events[event_id].type_name, "event": events[event_id].payload}
            for event_id in state.superseded
        ],
        "requests": _payloads((trigger.event_id for trigger in requests), events),
    }


def item_view(
    subject: dict[str, Any], summary: ImageSummary, scored: dict[str, Any] | None
) -> dict[str, Any]:
    """Return one line of `GET /v1/images`."""
    return {
        "image_id": subject["image_id"],
        "status": summary.status,
        "verdict": summary.verdict,
        "subject": subject,
        "scored": scored,
        "decision": summary.decision,
        "defect_type": summary.defect_type,
        "acknowledged": acknowledged_view(
            summary.acknowledged_id, summary.acknowledged_by, summary.acknowledged_at
        ),
    }


def acknowledged_view(
    event_id: str | None, by: str | None, at: datetime | None
) -> dict[str, Any] | None:
    """Return who acknowledged a verdict and when, None when nobody has."""
    if event_id is None or at is None:
        return None
    return {"event_id": event_id, "by": by, "at": rfc3339_ms(at)}


def _results(state: ImageState, events: Mapping[str, Kept]) -> dict[str, Any]:
    shown: dict[str, Any] = dict.fromkeys(_FIELD_OF.values())
    for stage, event_id in state.current.items():
        shown[_FIELD_OF[stage]] = events[event_id].payload
    return shown


def _payloads(event_ids: Iterable[str], events: Mapping[str, Kept]) -> list[dict[str, Any]]:
    return [events[event_id].payload for event_id in event_ids]


def encode_cursor(received_at: datetime, image_id: str) -> str:
    """Return an opaque place in the list, just behind this image."""
    text = f"{received_at.isoformat()}|{image_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[datetime, str]:
    """Return the place that a cursor names.

    Raises:
        RefusedError: 422 `bad_cursor`, no cursor of ours.
    """
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        moment, _, image_id = text.partition("|")
        received_at = datetime.fromisoformat(moment)
    except (ValueError, binascii.Error):
        raise _bad_cursor() from None
    if received_at.tzinfo is None or not image_id:
        raise _bad_cursor()
    return received_at, image_id


def _bad_cursor() -> RefusedError:
    return RefusedError(422, "bad_cursor", "leave `cursor` out or pass `next_cursor` back")
