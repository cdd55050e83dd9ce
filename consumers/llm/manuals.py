"""A manual's text cut into chunks that keep where they stand: revision, page, section."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from consumers.llm.lexicon import language_of
from consumers.llm.manual_files import ManualText
from consumers.llm.manual_sections import Place, sections_of_page
from schemas.configuration import ManualPublished

# Near 300 characters retrieved best on Korean manuals (product.md section 5.4); a chunk is closed
# once it holds that many and never grows beyond the limit unless one sentence does.
CHUNK_TARGET = 300
CHUNK_LIMIT = 600


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of one section on one page.

    `sentences` stand verbatim in the manual; a short list item counts as one.
    """

    chunk_id: str
    manual_id: str
    document: str
    revision: str | None
    page: int
    section: tuple[str, ...]
    language: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """All sentences."""
        return " ".join(self.sentences)

    @property
    def path(self) -> str:
        """Section path as people read it."""
        return " > ".join(self.section)


def chunk_manual(manual: ManualPublished, text: ManualText) -> tuple[Chunk, ...]:
    """Cut a manual into chunks; what the event says of title, revision, language wins.

    The same manual gives the same ids, in whatever process.
    """
    stem = manual.file_name.rsplit(".", 1)[0]
    titled = manual.title not in ("", manual.file_name, stem)
    document = manual.title if titled else (text.title or manual.title or stem)
    language = manual.language or text.language
    revision = manual.revision or text.revision
    chunks: list[Chunk] = []
    seen: dict[str, int] = {}
    for page, section, sentences in _passages(text):
        body = " ".join(sentences)
        identity = "\n".join((document, revision or "", str(page), *section, body))
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        seen[digest] = seen.get(digest, 0) + 1
        chunks.append(
            Chunk(
                chunk_id=digest if seen[digest] == 1 else f"{digest}-{seen[digest]}",
                manual_id=manual.manual_id,
                document=document,
                revision=revision,
                page=page,
                section=section,
                language=language or language_of(" ".join(section) + body),
                sentences=sentences,
            )
        )
    return tuple(chunks)


def _passages(text: ManualText) -> Iterator[tuple[int, tuple[str, ...], tuple[str, ...]]]:
    """Yield (page, section, sentences) of each chunk."""
    place = Place()
    for number, page in text.pages:
        for section, sentences in sections_of_page(page, place, is_markdown=text.is_markdown):
            for group in _groups(sentences):
                yield number, section, group


def _groups(sentences: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield runs of sentences, 300 to 600 characters each where the section is that long."""
    group: list[str] = []
    size = 0
    for sentence in sentences:
        if group and (size >= CHUNK_TARGET or size + len(sentence) > CHUNK_LIMIT):
            yield tuple(group)
            group, size = [], 0
        group.append(sentence)
        size += len(sentence) + 1
    if group:
        yield tuple(group)
