"""A question to a product's manuals, answered in their own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from consumers.llm.manuals import Chunk
from consumers.llm.retrieval import ManualIndex
from consumers.llm.tokens import Tokenizer, heading_terms

_PASSAGES = 3
_SENTENCES = 3
_LOOKED_AT = 50
# Terms that a passage must share with the question: one word alone is met by chance.
_LEAST_SHARED = 2


class Passage(NamedTuple):
    """Sentences that stand verbatim in one chunk of a manual, which is where to look them up."""

    chunk: Chunk
    sentences: tuple[str, ...]


def answer(index: ManualIndex, tokenizer: Tokenizer, question: str) -> Sequence[Passage]:
    """Return the passages that answer best, best first; none where the manuals say nothing.

    These are the ones that share most terms with the question, headings included. Of each, the
    sentences that share most are taken, in the manual's order; where only the heading matches,
    the first ones.
    """
    wanted = set(tokenizer.terms(question))
    found: list[tuple[int, Passage]] = []
    for hit in index.search(question, limit=_LOOKED_AT):
        titles = hit.chunk.section
        heading = {term for title in titles for term in heading_terms(tokenizer, title)}
        shared = len(wanted & (heading | set(tokenizer.terms(hit.chunk.text))))
        if shared >= min(_LEAST_SHARED, len(wanted)):
            sentences = _sentences(hit.chunk, tokenizer, wanted - heading)
            found.append((shared, Passage(hit.chunk, sentences)))
    most = max((shared for shared, _ in found), default=0)
    return [passage for shared, passage in found if shared == most][:_PASSAGES]


def _sentences(chunk: Chunk, tokenizer: Tokenizer, wanted: set[str]) -> tuple[str, ...]:
    shares = [len(wanted & set(tokenizer.terms(text))) for text in chunk.sentences]
    ranked = sorted(range(len(shares)), key=lambda place: (-shares[place], place))
    return tuple(chunk.sentences[place] for place in sorted(ranked[:_SENTENCES]))
