"""BM25 over a product's manuals."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from consumers.llm.manuals import Chunk
from consumers.llm.tokens import Tokenizer, heading_terms

RETRIEVAL_VERSION = "bm25.2"
_K1 = 1.5
_B = 0.75
# A heading says what its section is about: its words count as if they stood there three times.
_HEADING_WEIGHT = 3


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk with its BM25 score (>= 0; comparable within one query alone)."""

    chunk: Chunk
    score: float


class ManualIndex:
    """An immutable index; a changed manual means a new one. Building takes about 1 ms a chunk."""

    def __init__(self, chunks: Iterable[Chunk], tokenizer: Tokenizer) -> None:
        """Count the terms of every chunk."""
        self.chunks: tuple[Chunk, ...] = tuple(chunks)
        self._tokenizer = tokenizer
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._lengths: list[int] = []
        for position, chunk in enumerate(self.chunks):
            body = Counter(tokenizer.terms(chunk.text))
            for title in chunk.section:
                for term in heading_terms(tokenizer, title):
                    body[term] += _HEADING_WEIGHT
            self._lengths.append(sum(body.values()))
            for term, count in body.items():
                self._postings[term].append((position, count))
        self._mean_length = sum(self._lengths) / len(self._lengths) if self._lengths else 1.0
        self.version = self._version()

    def _version(self) -> str:
        ids = "\n".join(sorted(chunk.chunk_id for chunk in self.chunks))
        digest = hashlib.sha256(ids.encode()).hexdigest()[:12]
        return f"{RETRIEVAL_VERSION}/{self._tokenizer.name}/{digest}"

    def search(self, query: str, *, limit: int) -> Sequence[Hit]:
        """Return the best chunks, best first; those that share no term with the query are absent.

        Ties go to the chunk that stands earlier, so equal input gives equal output.
        """
        scores: dict[int, float] = defaultdict(float)
        for term, weight in Counter(self._tokenizer.terms(query)).items():
            postings = self._postings.get(term, ())
            idf = math.log(1 + (len(self.chunks) - len(postings) + 0.5) / (len(postings) + 0.5))
            for position, count in postings:
                norm = _K1 * (1 - _B + _B * self._lengths[position] / (self._mean_length or 1.0))
                scores[position] += min(weight, 3) * idf * count * (_K1 + 1) / (count + norm)
        ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        return [Hit(self.chunks[position], score) for position, score in ranked[:limit]]
