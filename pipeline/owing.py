"""Which stages owe an image an answer, and to which event. Pure; both table adapters use it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from pipeline.image_view import ImageFacts
from pipeline.status import Outcome, Trigger, unanswered
from schemas.event import uploaded_event_id


class Debt(NamedTuple):
    """`stage` has not answered the event of that id; an upload's is told from others'."""

    stage: str
    event_id: str
    at: datetime
    is_upload: bool


def debts_of(image_id: str, facts: ImageFacts) -> Iterator[Debt]:
    """Yield what is owed to one image.

    The llm stage owes nothing before there is a verdict; then it owes to the verdict's event.
    """
    if facts.upload is None:
        yield from _lost_upload(image_id, facts)
    asked = unanswered(facts.upload, facts.requests, facts.outcomes)
    for stage, trigger in asked.items():
        is_upload = facts.upload is not None and trigger.event_id == facts.upload.event_id
        if stage != "llm" or "anomaly" not in trigger.stages:
            yield Debt(stage, trigger.event_id, trigger.at, is_upload)
        elif verdict := _verdict_on(trigger, facts):
            yield Debt(stage, verdict.event_id, trigger.at, is_upload=False)


def _verdict_on(trigger: Trigger, facts: ImageFacts) -> Outcome | None:
    for outcome in facts.outcomes:
        is_verdict = outcome.stage == "anomaly" and outcome.kind == "result"
        if is_verdict and outcome.origin_event_id == trigger.event_id:
            return outcome
    return None


def _lost_upload(image_id: str, facts: ImageFacts) -> Iterator[Debt]:
    """Name the upload by the results that tell of it.

    Only an upload makes the embed stage answer; else its id must be the one that follows from
    the image, since a result's origin may as well be a request.
    """
    usual = uploaded_event_id(image_id)
    for outcome in facts.outcomes:
        origin = outcome.origin_event_id
        if origin is not None and (outcome.stage == "embed" or UUID(origin) == usual):
            yield Debt("record", origin, outcome.origin_at, is_upload=True)
            return
