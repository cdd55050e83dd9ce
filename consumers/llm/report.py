"""A report from checked lines: sections, ranks, citations with their quotes, past cases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from consumers.llm.answer import Line
from consumers.llm.evidence import REFUSALS, Evidence, Refusal
from consumers.llm.finding import Finding, describe
from consumers.llm.lexicon import fold
from consumers.llm.manuals import Chunk
from schemas.reports import Citation, Claim, ProbableCause, Report, Section, SimilarCase

PROMPT_VERSION = "response-manual.1"
EXTRACTIVE = "extractive"
# The inspection's own result is source 0; it carries what was measured, never what to do.
FINDING_SOURCE = "0"
# The order in which reports are shown, and therefore made (console.md, "Cards").
ORDER: tuple[Section, ...] = (
    "immediate_action",
    "symptom",
    "causes",
    "checks",
    "correction",
    "prevention",
    "safety",
)
_FINDING_TITLE = MappingProxyType({"ko": "검사 결과", "en": "Inspection result"})
SEVERITY = re.compile(
    r"(?:심각도|중요도|등급|severity|grade)\s*[:=|]?\s*"
    r"(치명|중대|높음|중결함|상|critical|major|high|보통|중간|중|medium|moderate"
    r"|경미|낮음|경결함|하|minor|low)",
)
_LEVELS = MappingProxyType(
    {
        **dict.fromkeys(
            ("치명", "중대", "높음", "중결함", "상", "critical", "major", "high"), "high"
        ),
        **dict.fromkeys(("보통", "중간", "중", "medium", "moderate"), "medium"),
        **dict.fromkeys(("경미", "낮음", "경결함", "하", "minor", "low"), "low"),
    }
)
Severity = Literal["low", "medium", "high", "unknown"]


@dataclass(frozen=True, slots=True)
class Draft:
    """Checked lines in any order and every citation that they may use, by id."""

    lines: Sequence[Line]
    citations: dict[str, Citation]
    kind: Literal["extractive", "model"]
    model: str


def finding_citation(finding: Finding) -> Citation:
    """Return source 0: the inspection's own words."""
    return Citation(
        id=FINDING_SOURCE,
        document=_FINDING_TITLE[finding.language],
        revision=finding.scored.bank_version,
        quote=" ".join(describe(finding)),
    )


def manual_citation(number: str, chunk: Chunk, quote: str) -> Citation:
    """Return a citation of a manual's passage; `quote` is one of its sentences."""
    return Citation(
        id=number,
        document=chunk.document,
        revision=chunk.revision,
        page=chunk.page,
        section=chunk.path or None,
        quote=quote,
        manual_id=chunk.manual_id,
    )


def assemble(finding: Finding, evidence: Evidence, draft: Draft, *, degraded: str | None) -> Report:
    """Return the report of a draft; citations that no line uses are left out."""
    ordered = sorted(draft.lines, key=lambda line: ORDER.index(line.section))
    used = {number for line in ordered for number in line.citations}
    cited = [citation for number, citation in draft.citations.items() if number in used]
    return Report(
        language=finding.language,
        kind=draft.kind,
        degraded=degraded,
        symptom=_claims(ordered, "symptom"),
        severity=severity_of(evidence),
        immediate_action=_claims(ordered, "immediate_action"),
        probable_causes=_causes(ordered),
        checks=_claims(ordered, "checks"),
        corrective_action=_claims(ordered, "correction"),
        prevention=_claims(ordered, "prevention"),
        safety_notes=_claims(ordered, "safety"),
        similar_cases=similar_cases(finding),
        citations=tuple(sorted(cited, key=lambda citation: int(citation.id))),
        model=draft.model,
        prompt_version=PROMPT_VERSION,
        index_version=evidence.index_version,
    )


def refuse(finding: Finding, refusal: Refusal, index_version: str, degraded: str | None) -> Report:
    """Return a report that says why there is none, and what would help."""
    return Report(
        language=finding.language,
        kind="extractive",
        degraded=degraded,
        refused=True,
        refusal_reason=REFUSALS[refusal, finding.language],
        similar_cases=similar_cases(finding),
        model=EXTRACTIVE,
        prompt_version=PROMPT_VERSION,
        index_version=index_version,
    )


def _claims(lines: Iterable[Line], section: Section) -> tuple[Claim, ...]:
    return tuple(
        Claim(text=line.text, citations=line.citations) for line in lines if line.section == section
    )


def _causes(lines: Iterable[Line]) -> tuple[ProbableCause, ...]:
    causes = (line for line in lines if line.section == "causes")
    return tuple(
        ProbableCause(cause=line.text, rank=rank, citations=line.citations)
        for rank, line in enumerate(causes, start=1)
    )


def similar_cases(finding: Finding) -> tuple[SimilarCase, ...]:
    """Return the past cases that the operator may compare with."""
    return tuple(
        SimilarCase(
            case_id=neighbour.case_id,
            defect_type=neighbour.defect_type,
            similarity=neighbour.similarity,
            action_taken=neighbour.action_taken,
        )
        for neighbour in finding.neighbours
    )


def severity_of(evidence: Evidence) -> Severity:
    """Return what the manual says of this defect type, else `unknown`.

    Never read from the score: how far a part is from the good ones says where to look, not how
    bad it is.
    """
    for chunk in evidence.chunks[: evidence.typed_count]:
        match = SEVERITY.search(fold(f"{chunk.path} {chunk.text}"))
        if match:
            level = _LEVELS[match.group(1)]
            return "high" if level == "high" else "medium" if level == "medium" else "low"
    return "unknown"
