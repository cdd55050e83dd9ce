"""The model's words, line by line, while they come: `section | sentence [1][2]`.

Small models wander from the format: headings with bullets below, bold, numbering, `[1, 2]` and
thinking out loud are understood; anything else ends up without a section or a source, and is
dropped by the checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from consumers.llm.lexicon import SECTION_WORDS, fold, section_of_heading
from consumers.llm.manual_sections import split_sentences
from schemas.reports import Section

# A line that long is no sentence: the model repeats itself.
_LINE_LIMIT = 2000
_LABEL_LIMIT = 40
_CITATIONS = re.compile(
    r"(?:\s*\[\s*(?:발췌|excerpt|source|출처)?\s*\d{1,3}(?:\s*,\s*\d{1,3})*\s*\])+[.]?",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d+")
_LIST_MARK = re.compile(r"^\s*(?:[-*+•·]|\d{1,2}[.)])\s+")
_COLON = re.compile(r"^\**([^:\uff1a|\[\]]{1,30})\**\s*[:\uff1a]\**\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence for one section, and the numbers of what it cites."""

    section: Section
    text: str
    citations: tuple[str, ...] = ()


class AnswerReader:
    """Collects pieces of text and gives out every sentence once its line is complete."""

    def __init__(self) -> None:
        """Start before the first section."""
        self._buffer = ""
        self._section: Section | None = None
        self._is_thinking = False

    def feed(self, piece: str) -> Iterator[Line]:
        """Take the next piece; yield the sentences of the lines that it completes."""
        self._buffer += piece
        *lines, self._buffer = self._buffer.split("\n")
        if len(self._buffer) > _LINE_LIMIT:
            self._buffer = ""
        for line in lines:
            yield from self._read(line)

    def close(self) -> Iterator[Line]:
        """Yield what the last line holds; one that was cut short has no citation any more."""
        line, self._buffer = self._buffer, ""
        yield from self._read(line)

    def _read(self, line: str) -> Iterator[Line]:
        text = self._without_thoughts(line).strip().strip("`").strip()
        if not text:
            return
        section, text = self._split_label(_LIST_MARK.sub("", text))
        if section is None:
            return
        for sentence, citations in _cited_sentences(text):
            yield Line(section, sentence, citations)

    def _without_thoughts(self, line: str) -> str:
        if "<think>" in line:
            self._is_thinking = True
        if "</think>" in line:
            self._is_thinking = False
            return line.rpartition("</think>")[2]
        return "" if self._is_thinking else line

    def _split_label(self, text: str) -> tuple[Section | None, str]:
        """Return the line's section and what is left of it; a heading sets it for what follows."""
        label, bar, rest = text.partition("|")
        section = section_of_label(label) if bar else None
        if section is not None:
            return section, rest
        if text.startswith("#") or (text.startswith("**") and text.endswith("**")):
            self._section = section_of_label(text) or self._section
            return None, ""
        colon = _COLON.match(text)
        section = section_of_label(colon.group(1)) if colon else None
        if colon is None or section is None:
            return self._section, text
        if not colon.group(2):
            self._section = section
        return section, colon.group(2)


def section_of_label(label: str) -> Section | None:
    """Return the section that a label such as `causes` or `2. 즉시 조치` names."""
    text = fold(_LIST_MARK.sub("", label.strip("#* \t"))).strip("[]<>() ")
    slug = text.replace(" ", "_").replace("-", "_")
    for section in SECTION_WORDS:
        if slug == section:
            return section
    return section_of_heading(text) if 0 < len(text) <= _LABEL_LIMIT else None


def _cited_sentences(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each sentence with the citations that follow it, or follow the run it stands in."""
    start = 0
    for match in _CITATIONS.finditer(text):
        numbers = tuple(dict.fromkeys(str(int(n)) for n in _DIGITS.findall(match.group())))
        for sentence in _clean(text[start : match.start()]):
            yield sentence, numbers
        start = match.end()
    for sentence in _clean(text[start:]):
        yield sentence, ()


def _clean(text: str) -> list[str]:
    plain = text.replace("**", "").replace("__", "").strip().lstrip("|.;, ").strip()
    return [sentence for sentence in split_sentences(plain) if len(sentence) > 1]
