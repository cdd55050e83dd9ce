"""Which passages of the manuals speak of a finding, and whether they are enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from consumers.llm.finding import Finding, Language, query_of
from consumers.llm.lexicon import (
    GENERAL_WORDS,
    INSPECTION_WORDS,
    TITLE_WORDS,
    all_defect_names,
    contains_any,
    fold,
    section_of_heading,
    section_of_sentence,
)
from consumers.llm.manuals import Chunk
from consumers.llm.retrieval import Hit, ManualIndex
from schemas.reports import Section

Scope = Literal["typed", "general", "unclear", "other"]
Refusal = Literal["no_manual", "no_match", "only_other_types"]

_SEARCH_LIMIT = 200
_WARNING_STARTS = ("경고", "위험", "주의:", "warning", "danger", "caution")
# What a person can do something with; a report without any of these is no help.
ACTIONABLE: frozenset[Section] = frozenset({"immediate_action", "causes", "checks", "correction"})

REFUSALS: MappingProxyType[tuple[Refusal, str], str] = MappingProxyType(
    {
        ("no_manual", "ko"): "이 제품에 등록된 매뉴얼이 없습니다. 매뉴얼을 추가하세요.",
        ("no_manual", "en"): "This product has no manual yet; add a manual.",
        (
            "no_match",
            "ko",
        ): "매뉴얼에서 이 불량에 맞는 내용을 찾지 못했습니다. 매뉴얼을 추가하세요.",
        ("no_match", "en"): "The manuals say nothing about such a defect; add a manual.",
        ("only_other_types", "ko"): (
            "매뉴얼이 다른 불량 유형만 다룹니다. 이 유형이나 공통 조치에 대한 매뉴얼을 추가하세요."
        ),
        ("only_other_types", "en"): (
            "The manuals only treat other defect types; add a manual for this one or a general one."
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a manual, with the report section that it serves.

    `is_typed` says that it stands in a passage about the voted defect type.
    """

    text: str
    section: Section
    chunk: Chunk
    is_typed: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """The passages to build a report on, best first, or why there can be none.

    `chunks` are of one language where that is enough. The first `typed_count` speak of the voted
    defect type, the others hold for any defect.
    """

    chunks: tuple[Chunk, ...]
    index_version: str
    typed_count: int = 0
    refusal: Refusal | None = None

    def sentences(self) -> list[Sentence]:
        """Every sentence that a report section can use, in order of the chunks."""
        found = []
        for position, chunk in enumerate(self.chunks):
            for text in chunk.sentences:
                section = section_of(chunk, text)
                if section is not None:
                    found.append(Sentence(text, section, chunk, position < self.typed_count))
        return found


def gather_evidence(index: ManualIndex, finding: Finding) -> Evidence:
    """Choose the passages for a finding; pure, but reads Korean text (a thread's work)."""
    if not index.chunks:
        return Evidence((), index.version, refusal="no_manual")
    hits = index.search(query_of(finding), limit=_SEARCH_LIMIT)
    others = other_types(finding)
    scopes = {hit.chunk.chunk_id: scope_of(hit.chunk, finding.type_names, others) for hit in hits}
    for language in (finding.language, None):
        chosen, typed_count = _choose(in_reading_order(index, hits), scopes, language)
        evidence = Evidence(chosen, index.version, typed_count)
        if any(sentence.section in ACTIONABLE for sentence in evidence.sentences()):
            return evidence
    has_others = any(scope == "other" for scope in scopes.values())
    return Evidence((), index.version, refusal="only_other_types" if has_others else "no_match")


def other_types(finding: Finding) -> tuple[str, ...]:
    """Return the names that mark a passage as being about another defect."""
    names = dict.fromkeys((*finding.other_names, *all_defect_names()))
    return tuple(name for name in names if name not in finding.type_names)


def in_reading_order(index: ManualIndex, hits: Sequence[Hit]) -> list[Chunk]:
    """Return the chunks by their section's best score, and within a section as they stand there.

    Steps lose their meaning when the better scored second half comes first.
    """
    ranks: dict[tuple[str, tuple[str, ...]], int] = {}
    for hit in hits:
        ranks.setdefault((hit.chunk.manual_id, hit.chunk.section), len(ranks))
    found = {hit.chunk.chunk_id for hit in hits}
    chunks = [chunk for chunk in index.chunks if chunk.chunk_id in found]
    return sorted(chunks, key=lambda chunk: ranks[chunk.manual_id, chunk.section])


def _choose(
    chunks: Sequence[Chunk], scopes: dict[str, Scope], language: Language | None
) -> tuple[tuple[Chunk, ...], int]:
    pool = [chunk for chunk in chunks if language in (None, chunk.language)]
    typed = [chunk for chunk in pool if scopes[chunk.chunk_id] == "typed"]
    general = [chunk for chunk in pool if scopes[chunk.chunk_id] == "general"]
    if not typed and not general:
        unclear = (chunk for chunk in pool if scopes[chunk.chunk_id] == "unclear")
        general = [chunk for chunk in unclear if _is_about_inspection(chunk)]
    return (*typed, *general), len(typed)


def _is_about_inspection(chunk: Chunk) -> bool:
    return contains_any(fold(f"{chunk.document} {chunk.path} {chunk.text}"), INSPECTION_WORDS)


def scope_of(chunk: Chunk, type_names: Iterable[str], others: Iterable[str]) -> Scope:
    """Return for which defects a passage holds.

    The innermost heading that names a defect decides: a section on cracks is not quoted for a
    scratch, whatever words it shares. Only where no heading does, the text itself counts.
    """
    for title in map(fold, reversed(chunk.section)):
        if contains_any(title, type_names):
            return "typed"
        if contains_any(title, others):
            return "other"
        if contains_any(title, GENERAL_WORDS):
            return "general"
    text = fold(chunk.text)
    if contains_any(text, type_names):
        return "typed"
    section = _section_of_headings(chunk)
    if section is None:
        return "unclear"
    # "Cracked cells are sharp" warns everybody, not only who looks for cracks.
    return "other" if section != "safety" and contains_any(text, others) else "general"


def section_of(chunk: Chunk, sentence: str) -> Section | None:
    """Return the report section of a sentence: by the nearest heading that names one.

    A warning is safety wherever it stands; under no such heading the sentence's words decide.
    """
    if fold(sentence).startswith(_WARNING_STARTS):
        return "safety"
    return _section_of_headings(chunk) or section_of_sentence(sentence)


def _section_of_headings(chunk: Chunk) -> Section | None:
    for title in reversed(chunk.section):
        if contains_any(fold(title), TITLE_WORDS):
            continue
        section = section_of_heading(title)
        if section is not None:
            return section
    return None
