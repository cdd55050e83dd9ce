"""Where an image stands: its status, its verdict, and which results are current. Pure.

Everything is computed from the whole set of facts about one image, so that the answer is the
same in whatever order they arrived.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from schemas.anomalies import ImageScored
from schemas.dead_letters import DeadLetter
from schemas.event import Event, StageEvent
from schemas.images import ImageSkipped, ImageUploaded, InspectionRequested
from schemas.reviews import ReviewRecorded
from schemas.subject import Subject

Status = Literal["pending", "complete", "failed"]
Kind = Literal["result", "skip", "dead_letter"]

# What every image must pass before it is complete.
JUDGED_STAGES = ("embed", "anomaly", "llm")
# An NG of these calls nobody: no sound, no count of open alarms (console.md).
QUIET_PURPOSES = frozenset({"golden", "setup", "simulated"})

_NEVER = datetime.min.replace(tzinfo=UTC)
_RANK: Mapping[Kind, int] = {"result": 2, "skip": 1, "dead_letter": 0}


class Trigger(NamedTuple):
    """What asked stages to look at the image: its upload, or somebody's request."""

    event_id: str
    at: datetime
    stages: tuple[str, ...]


class Outcome(NamedTuple):
    """How a stage answered one trigger; of several dead letters the latest counts."""

    event_id: str
    kind: Kind
    stage: str
    origin_event_id: str | None
    origin_at: datetime
    verdict: str | None = None
    buried_at: datetime = _NEVER


class Act(NamedTuple):
    """A review, its undoing, or an acknowledgement."""

    event_id: str
    at: datetime
    reviewer: str
    decision: str | None = None
    defect_type: str | None = None
    undoes: str | None = None
    acknowledges: str | None = None


@dataclass(frozen=True, slots=True)
class ImageState:
    """What follows from the facts; the ids are event_ids.

    `verdict` is None while the image waits for one, `NOT_JUDGED` when the anomaly stage was
    skipped, `ERROR` also when its event was dead-lettered before any verdict.
    `current` maps a stage to its newest result; a later skip or dead letter does not hide it.
    """

    status: Status
    verdict: str | None
    waiting_for: tuple[str, ...]
    current: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    dead_letters: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()


def trigger_of(event: Event) -> Trigger | None:
    """Return what an upload or a request asks for, None for any other event."""
    if isinstance(event, ImageUploaded):
        return Trigger(str(event.event_id), event.occurred_at, JUDGED_STAGES)
    if isinstance(event, InspectionRequested):
        return Trigger(
            str(event.event_id), event.occurred_at, asked_stages(event.stage, explain=event.explain)
        )
    return None


def asked_stages(stage: str, *, explain: bool) -> tuple[str, ...]:
    """Stages that a request must hear from."""
    return ("anomaly", "llm") if stage == "anomaly" and explain else (stage,)


def outcome_of(event: Event) -> Outcome | None:
    """Return what a stage's event says about the image, None for any other event."""
    if isinstance(event, StageEvent):
        verdict = event.verdict if isinstance(event, ImageScored) else None
        kind: Kind = "skip" if isinstance(event, ImageSkipped) else "result"
        origin = str(event.origin_event_id)
        return Outcome(str(event.event_id), kind, event.stage, origin, event.origin_at, verdict)
    if isinstance(event, DeadLetter):
        origin_id = event.origin_event_id or event.trigger_event_id
        return Outcome(
            str(event.event_id),
            "dead_letter",
            event.stage,
            None if origin_id is None else str(origin_id),
            event.origin_at or event.first_attempt_at,
            buried_at=event.occurred_at,
        )
    return None


def act_of(event: Event) -> Act | None:
    """Return what a person did, None for any other event."""
    if not isinstance(event, ReviewRecorded):
        return None
    return Act(
        str(event.event_id),
        event.occurred_at,
        event.reviewer,
        event.decision,
        event.defect_type,
        None if event.undoes is None else str(event.undoes),
        None if event.acknowledges is None else str(event.acknowledges),
    )


def judge_image(
    upload: Trigger | None, requests: Iterable[Trigger], outcomes: Collection[Outcome]
) -> ImageState:
    """Return where an image stands; without its upload it is pending, whatever else is known."""
    order = _Order(None if upload is None else upload.event_id)
    triggers = [*([upload] if upload else []), *requests]
    by_stage = {stage: _Answers(order, stage, outcomes) for stage in JUDGED_STAGES}
    waiting = tuple(
        stage
        for stage in JUDGED_STAGES
        if not _is_settled(stage, _newest(order, triggers, stage), by_stage)
    )
    newest = {stage: answers.newest for stage, answers in by_stage.items()}
    status: Status = "complete"
    if waiting:
        status = "pending"
    elif any(_is_failure(outcome) for outcome in newest.values()):
        status = "failed"
    current = {
        stage: answers.result.event_id for stage, answers in by_stage.items() if answers.result
    }
    shown = _shown(outcomes, newest)
    named = {*current.values(), *shown["skip"], *shown["dead_letter"]}
    return ImageState(
        status,
        _verdict(by_stage["anomaly"], waits="anomaly" in waiting),
        waiting,
        current,
        shown["skip"],
        shown["dead_letter"],
        tuple(sorted(o.event_id for o in outcomes if o.event_id not in named)),
    )


def unanswered(
    upload: Trigger | None, requests: Iterable[Trigger], outcomes: Collection[Outcome]
) -> Mapping[str, Trigger]:
    """Return, per stage that an image waits for, the newest trigger that it has not answered."""
    order = _Order(None if upload is None else upload.event_id)
    triggers = [*([upload] if upload else []), *requests]
    by_stage = {stage: _Answers(order, stage, outcomes) for stage in JUDGED_STAGES}
    newest = {stage: _newest(order, triggers, stage) for stage in JUDGED_STAGES}
    return {
        stage: trigger
        for stage, trigger in newest.items()
        if trigger is not None and not _is_settled(stage, trigger, by_stage)
    }


def overtaken_letters(upload: Trigger | None, outcomes: Collection[Outcome]) -> dict[str, str]:
    """Return dead letters whose stage has answered a newer trigger since, with that answer's id.

    Nobody needs them any more: the image was inspected again.
    """
    order = _Order(None if upload is None else upload.event_id)

    def origin(outcome: Outcome) -> tuple[bool, datetime, str]:
        return order(outcome.origin_event_id, outcome.origin_at)

    found: dict[str, str] = {}
    for letter in (outcome for outcome in outcomes if outcome.kind == "dead_letter"):
        newer = [
            outcome
            for outcome in outcomes
            if outcome.kind != "dead_letter"
            and outcome.stage == letter.stage
            and origin(outcome) > origin(letter)
        ]
        if newer:
            found[letter.event_id] = max(newer, key=origin).event_id
    return found


class _Order:
    """Newest origin last. A request is newer than its upload, whatever the sender's clock says."""

    def __init__(self, upload_id: str | None) -> None:
        self._upload_id = upload_id

    def __call__(self, event_id: str | None, at: datetime) -> tuple[bool, datetime, str]:
        return (event_id != self._upload_id, at, event_id or "")


class _Answers:
    """What one stage answered, by origin."""

    def __init__(self, order: _Order, stage: str, outcomes: Iterable[Outcome]) -> None:
        mine = [outcome for outcome in outcomes if outcome.stage == stage]

        def rank(outcome: Outcome) -> tuple[tuple[bool, datetime, str], int, datetime, str]:
            origin = order(outcome.origin_event_id, outcome.origin_at)
            return (origin, _RANK[outcome.kind], outcome.buried_at, outcome.event_id)

        mine.sort(key=rank)
        # Sorted by rank, so that the strongest answer to an origin is the one that stays.
        self._best = {outcome.origin_event_id: outcome for outcome in mine}
        self.newest = mine[-1] if mine else None
        results = [outcome for outcome in mine if outcome.kind == "result"]
        self.result = results[-1] if results else None

    def to(self, trigger: Trigger) -> Outcome | None:
        return self._best.get(trigger.event_id)


def _newest(order: _Order, triggers: Iterable[Trigger], stage: str) -> Trigger | None:
    asked = [trigger for trigger in triggers if stage in trigger.stages]
    return max(asked, key=lambda trigger: order(trigger.event_id, trigger.at), default=None)


def _is_settled(stage: str, trigger: Trigger | None, answers: Mapping[str, _Answers]) -> bool:
    if trigger is None:
        return False
    if answers[stage].to(trigger) is not None:
        return True
    if stage != "llm" or "anomaly" not in trigger.stages:
        return False
    # Without a verdict to explain, nothing reaches the llm stage.
    verdict = answers["anomaly"].to(trigger)
    return verdict is not None and (verdict.kind != "result" or verdict.verdict == "ERROR")


def _is_failure(outcome: Outcome | None) -> bool:
    return outcome is not None and (outcome.kind == "dead_letter" or outcome.verdict == "ERROR")


def _verdict(answers: _Answers, *, waits: bool) -> str | None:
    if answers.result is not None:
        return answers.result.verdict
    if waits or answers.newest is None:
        return None
    return "NOT_JUDGED" if answers.newest.kind == "skip" else "ERROR"


def _shown(
    outcomes: Iterable[Outcome], newest: Mapping[str, Outcome | None]
) -> dict[Kind, tuple[str, ...]]:
    """Skips and dead letters that still matter: the newest answer, or a stage beside the judged."""
    shown: dict[Kind, list[str]] = {"skip": [], "dead_letter": [], "result": []}
    for outcome in outcomes:
        if outcome.stage not in newest or newest[outcome.stage] == outcome:
            shown[outcome.kind].append(outcome.event_id)
    return {kind: tuple(sorted(ids)) for kind, ids in shown.items()}


def standing_review(acts: Iterable[Act]) -> Act | None:
    """Return the decision that stands: the newest one that no later act undoes."""
    known = list(acts)
    undone = {act.undoes for act in known if act.undoes is not None}
    standing = [a for a in known if a.decision is not None and a.event_id not in undone]
    return max(standing, key=lambda act: (act.at, act.event_id), default=None)


def acknowledgement_of(acts: Iterable[Act], scored_id: str | None) -> Act | None:
    """Return the first act that acknowledges this verdict, None if nobody has seen it."""
    seen = [act for act in acts if scored_id is not None and act.acknowledges == scored_id]
    return min(seen, key=lambda act: (act.at, act.event_id), default=None)


def is_quiet(subject: Subject) -> bool:
    """Whether the image calls nobody: no production part, or one of long ago."""
    return subject.is_historical or subject.purpose in QUIET_PURPOSES


def is_open_alarm(verdict: str | None, acts: Collection[Act], scored_id: str | None) -> bool:
    """Whether an NG still waits for a person: neither decided nor acknowledged."""
    if verdict != "NG":
        return False
    return standing_review(acts) is None and acknowledgement_of(acts, scored_id) is None
