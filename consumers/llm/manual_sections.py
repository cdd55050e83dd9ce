"""Sections, sentences and table cells of a manual's page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# A sentence longer than this is a broken table or a page without line ends; it is cut at spaces.
_SENTENCE_LIMIT = 500
# A list item up to here stays whole: "Measure the gap. It is 0.2 mm." is one check, not two.
_ITEM_LIMIT = 300
# "1. Stop the line and ..." is a step, "1. Scope" a heading: only the length tells.
_SHORT_HEADING = 22

_MD_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$")
_NUMBERED_HEADING = re.compile(r"^(\d{1,2}(?:\.\d{1,2}){0,3})\.?\s+(\S.{0,58})$")
_MARKED_HEADING = re.compile(r"^(?:[■□◆◇●▶▣]\s*|\[)(\S.{0,58}?)\]?$")
_CHAPTER = re.compile(r"^제\s?\d{1,2}\s?([장절])\s*.{0,58}$")
_ITEM = re.compile(r"^\s*(?:[-*+•·○▪‣]|\(?\d{1,2}[.)]|[①-⑳]|[가-하][.)])\s+")
_TABLE_RULE = re.compile(r"^\s*\|?(?:\s*:?-{2,}:?\s*\|?)+\s*$")
_EMPHASIS = re.compile(r"(\*\*|__|`)(.+?)\1")
_SENTENCE_END = re.compile(
    r"(?<=[.!?。])(?<!e\.g\.)(?<!i\.e\.)(?<!\b(?:No|no|vs|cf)\.)(?<!\b(?:Fig|fig)\.)\s+"
)
_SENTENCE_MARKS = (".", "!", "?", "。", ":", "\uff1a", ",")

Passage = tuple[tuple[str, ...], list[str]]


@dataclass(slots=True)
class Place:
    """The headings above the line that is read; they stay in force across pages."""

    levels: list[tuple[int, str]] = field(default_factory=list)

    def enter(self, level: int, title: str) -> None:
        """Go below a heading; headings of its level and deeper end."""
        self.levels = [entry for entry in self.levels if entry[0] < level]
        self.levels.append((level, title))

    @property
    def section(self) -> tuple[str, ...]:
        """Titles from the outermost heading inwards."""
        return tuple(title for _, title in self.levels)


def sections_of_page(page: str, place: Place, *, is_markdown: bool) -> Iterator[Passage]:
    """Yield (section path, sentences) in reading order; `place` is carried to the next page.

    A table with a heading row yields its cells one by one, below the row's first cell and the
    column's heading: "| 크랙 | 충격 | 교체 |" says of a crack what its cause is.
    """
    reader = _PageReader(place)
    for line in [*page.split("\n"), ""]:
        heading = heading_of(line.strip(), is_markdown=is_markdown)
        is_row = line.lstrip().startswith("|")
        if reader.rows and not is_row:
            yield from reader.end_table()
        if heading:
            yield from reader.end_section()
            place.enter(*heading)
        elif is_row:
            reader.end_paragraph()
            reader.rows.append(line)
        elif not line.strip():
            reader.end_paragraph()
        else:
            if _ITEM.match(line):
                reader.end_paragraph()
                reader.is_item = True
            reader.paragraph.append(_without_marks(_ITEM.sub("", line)))
    yield from reader.end_section()


@dataclass(slots=True)
class _PageReader:
    place: Place
    paragraph: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    is_item: bool = False

    def end_paragraph(self) -> None:
        text = " ".join(" ".join(self.paragraph).split())
        is_whole = self.is_item and len(text) <= _ITEM_LIMIT
        self.sentences += [text] if is_whole else split_sentences(text)
        self.paragraph = []
        self.is_item = False

    def end_section(self) -> Iterator[Passage]:
        self.end_paragraph()
        if self.sentences:
            yield self.place.section, self.sentences
        self.sentences = []

    def end_table(self) -> Iterator[Passage]:
        yield from self.end_section()
        rows, self.rows = self.rows, []
        has_head = len(rows) > 2 and _TABLE_RULE.match(rows[1]) is not None
        head = _cells(rows[0]) if has_head else []
        for row in rows[2:] if has_head else rows:
            cells = _cells(row)
            if not has_head:
                yield self.place.section, [" | ".join(cell for cell in cells if cell)]
                continue
            for title, cell in zip(head[1:], cells[1:], strict=False):
                if cell:
                    yield (*self.place.section, cells[0], title), split_sentences(cell)


def _cells(row: str) -> list[str]:
    return [_without_marks(cell) for cell in row.strip().strip("|").split("|")]


def heading_of(line: str, *, is_markdown: bool) -> tuple[int, str] | None:
    """Return (level, title) of a heading line, None if it is text."""
    if is_markdown:
        match = _MD_HEADING.match(line)
        return (len(match.group(1)), _without_marks(match.group(2))) if match else None
    if line.endswith(_SENTENCE_MARKS):
        return None
    if match := _CHAPTER.match(line):
        return (1 if match.group(1) == "장" else 2, line)
    if match := _NUMBERED_HEADING.match(line):
        depth = match.group(1).count(".")
        return (depth + 2, line) if depth or len(line) <= _SHORT_HEADING else None
    if match := _MARKED_HEADING.match(line):
        return (6, match.group(1))
    return None


def _without_marks(line: str) -> str:
    """Return a line as a reader sees it: no emphasis, no quote mark, single spaces."""
    return " ".join(_EMPHASIS.sub(r"\2", line).strip().lstrip(">").split())


def split_sentences(paragraph: str) -> list[str]:
    """Return the sentences of a paragraph, verbatim but for runs of spaces."""
    found: list[str] = []
    for part in _SENTENCE_END.split(" ".join(paragraph.split())):
        sentence = part.strip()
        while len(sentence) > _SENTENCE_LIMIT:
            cut = sentence.rfind(" ", 1, _SENTENCE_LIMIT)
            cut = cut if cut > 0 else _SENTENCE_LIMIT
            found.append(sentence[:cut])
            sentence = sentence[cut:].strip()
        if sentence:
            found.append(sentence)
    return found
