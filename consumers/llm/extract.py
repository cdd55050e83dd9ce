"""A report of the manuals' own sentences: no language model needed, nothing invented."""

from __future__ import annotations

from types import MappingProxyType

from consumers.llm.answer import Line
from consumers.llm.evidence import Evidence, Sentence
from consumers.llm.finding import Finding, describe
from consumers.llm.lexicon import fold
from consumers.llm.report import (
    EXTRACTIVE,
    FINDING_SOURCE,
    ORDER,
    SEVERITY,
    Draft,
    finding_citation,
    manual_citation,
)
from schemas.reports import Citation, Section

# As many lines as an operator reads while standing.
_LIMITS: MappingProxyType[Section, int] = MappingProxyType(
    {
        "immediate_action": 3,
        "symptom": 2,
        "causes": 4,
        "checks": 4,
        "correction": 4,
        "prevention": 3,
        "safety": 4,
    }
)
# Where the manual treats this type, what it says of any defect would only dilute these.
_TYPED_ALONE: frozenset[Section] = frozenset({"symptom", "causes", "correction"})
_SHORTEST = 6


def extract_report(finding: Finding, evidence: Evidence) -> Draft:
    """Return the best sentences of each section in the order of the report.

    Every sentence has a citation of its own with itself as the quote. Equal input gives an
    equal draft.
    """
    sentences = evidence.sentences()
    lines: list[Line] = []
    citations: dict[str, Citation] = {FINDING_SOURCE: finding_citation(finding)}
    taken: set[str] = set()
    for section in ORDER:
        if section == "symptom":
            lines += place_lines(finding)
        for sentence in _best(sentences, section, taken):
            number = str(len(citations))
            citations[number] = manual_citation(number, sentence.chunk, sentence.text)
            lines.append(Line(section, sentence.text, (number,)))
    return Draft(lines, citations, "extractive", EXTRACTIVE)


def place_lines(finding: Finding) -> list[Line]:
    """Return where the suspicious regions lie, as measured, citing the inspection itself."""
    facts = [fact for fact in describe(finding) if " px" in fact]
    return [Line("symptom", fact, (FINDING_SOURCE,)) for fact in facts[:2]]


def _best(sentences: list[Sentence], section: Section, taken: set[str]) -> list[Sentence]:
    candidates = [one for one in sentences if one.section == section and _is_whole(one.text)]
    typed = [one for one in candidates if one.is_typed]
    if typed and section in _TYPED_ALONE:
        candidates = typed
    found: list[Sentence] = []
    for candidate in candidates:
        words = fold(candidate.text)
        if words not in taken and len(found) < _LIMITS[section]:
            taken.add(words)
            found.append(candidate)
    return found


def _is_whole(text: str) -> bool:
    """Whether a sentence stands by itself: no lead-in to a list, no scrap, no mere grading."""
    if SEVERITY.match(fold(text)):
        return False
    return len(text) >= _SHORTEST and not text.endswith((":", "\uff1a"))
