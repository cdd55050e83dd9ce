"""The response manual for a finding (interfaces.md section 6)."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from schemas.event import ImageEvent, StageEvent
from schemas.subject import WireModel

Section = Literal[
    "immediate_action", "symptom", "causes", "checks", "correction", "prevention", "safety"
]


class Claim(WireModel):
    """One sentence and the citations that carry it."""

    text: str
    citations: tuple[str, ...] = ()


class ProbableCause(WireModel):
    """A cause, what speaks for it, and its place in the ranking (1 = most likely)."""

    cause: str
    evidence: str | None = None
    rank: int
    citations: tuple[str, ...] = ()


class Citation(WireModel):
    """A place in a manual; `quote` stands there verbatim."""

    id: str
    document: str
    revision: str | None = None
    page: int | None = None
    section: str | None = None
    quote: str
    manual_id: str | None = None


class SimilarCase(WireModel):
    """A past case that the report leans on."""

    case_id: str
    defect_type: str | None = None
    similarity: float
    action_taken: str | None = None


class Report(WireModel):
    """What to do now, and why; `kind` tells an excerpt of the manual from a model's words."""

    language: Literal["ko", "en"]
    kind: Literal["extractive", "model"] = "extractive"
    degraded: str | None = None
    refused: bool = False
    refusal_reason: str | None = None
    symptom: tuple[Claim, ...] = ()
    severity: Literal["low", "medium", "high", "unknown"] = "unknown"
    immediate_action: tuple[Claim, ...] = ()
    probable_causes: tuple[ProbableCause, ...] = ()
    checks: tuple[Claim, ...] = ()
    corrective_action: tuple[Claim, ...] = ()
    prevention: tuple[Claim, ...] = ()
    safety_notes: tuple[Claim, ...] = ()
    similar_cases: tuple[SimilarCase, ...] = ()
    citations: tuple[Citation, ...] = ()
    model: str
    prompt_version: str
    index_version: str


class ImageExplained(StageEvent):
    """The final report; what was streamed before it is only a preview."""

    report: Report
    model: str
    refused: bool


class ReportStreamed(ImageEvent):
    """One checked sentence of a report in the making; a new `stream_id` replaces the text."""

    stream_id: UUID
    sequence: int
    sentence: str
    section: Section
    citations: tuple[str, ...] = ()
    last: bool = False
