"""What a version said of an image, whichever stage it was."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from schemas.anomalies import ImageScored
from schemas.dead_letters import DeadLetter
from schemas.embeddings import ImageEmbedded
from schemas.event import Event, StageEvent
from schemas.reports import ImageExplained

DEAD_LETTER = "DEAD_LETTER"
SKIPPED = "SKIPPED"
NO_VOTE = "no vote"

_RESULTS: dict[str, type[Event]] = {
    "anomaly": ImageScored,
    "embed": ImageEmbedded,
    "llm": ImageExplained,
}


class Answer(NamedTuple):
    """One image's answer.

    `label` is the verdict, the voted defect type, or what became of the report. `strength` is the
    score relative to its threshold, or the similarity of the nearest case; `nearest` is that case.
    """

    image_id: str
    product: str
    part_id: str | None
    label: str
    score: float | None = None
    threshold: float | None = None
    strength: float | None = None
    nearest: str | None = None

    @property
    def said(self) -> tuple[str, str | None]:
        """What has to be equal for an answer to count as unchanged."""
        return self.label, self.nearest


def label_of(event: Event) -> str:
    """Return what an event says, in one word or two."""
    if isinstance(event, ImageScored):
        return event.verdict
    if isinstance(event, ImageEmbedded):
        return event.voted_defect_type or NO_VOTE
    if isinstance(event, ImageExplained):
        return "refused" if event.refused else event.report.severity
    return DEAD_LETTER if isinstance(event, DeadLetter) else SKIPPED


def answer_of(event: Event) -> Answer | None:
    """Return the answer in an event of a stage, None where it is about no image."""
    subject = event.subject if isinstance(event, StageEvent | DeadLetter) else None
    if subject is None:
        return None
    facts: dict[str, Any] = {}
    if isinstance(event, ImageScored):
        facts = {"score": event.score, "threshold": event.threshold}
        if event.score is not None and event.threshold:
            facts["strength"] = event.score / event.threshold
    elif isinstance(event, ImageEmbedded) and event.neighbours:
        first = event.neighbours[0]
        facts = {"nearest": first.case_id, "strength": first.similarity}
    return Answer(subject.image_id, subject.product, subject.part_id, label_of(event), **facts)


class Collector:
    """Keeps each image's answer as the tables would choose it; events themselves are let go.

    Of an event_id the first counts, of an image the one with the newest origin.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.events = 0
        self._seen: set[UUID] = set()
        self._newest: dict[str, tuple[datetime, Answer]] = {}

    def add(self, event: Event) -> None:
        """Take an event of a stage, in log order per partition."""
        self.events += 1
        answer = answer_of(event)
        if answer is None or event.event_id in self._seen:
            return
        self._seen.add(event.event_id)
        age = _age(event)
        known = self._newest.get(answer.image_id)
        if known is None or known[0] <= age:
            self._newest[answer.image_id] = (age, answer)

    def answers(self) -> dict[str, Answer]:
        """Return each image's answer by image_id."""
        return {image_id: answer for image_id, (_, answer) in self._newest.items()}


def _age(event: Event) -> datetime:
    assert isinstance(event, StageEvent | DeadLetter)
    return event.origin_at or event.occurred_at


def live_answer(view: dict[str, Any], stage: str) -> Answer | None:
    """Return what the tables show of an image as the answer of a stage, None while it waits.

    `view` is that of `Inspections.get`.
    """
    field = {"anomaly": "scored", "embed": "embedded", "llm": "explained"}[stage]
    if view[field] is not None:
        return answer_of(_RESULTS[stage].model_validate(view[field]))
    subject = view["subject"]
    of_image = (view["image_id"], subject["product"], subject.get("part_id"))
    if any(letter["stage"] == stage for letter in view["dead_letters"]):
        return Answer(*of_image, DEAD_LETTER)
    if any(skip["stage"] == stage for skip in view["skipped"]):
        return Answer(*of_image, SKIPPED)
    return None
