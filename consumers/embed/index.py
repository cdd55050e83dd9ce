"""Exact similarity search over past cases: FAISS per product, with ids, replacement and removal.

Within a product the oddities of pictures are compared (`likeness`), over all products the plain
vectors.

FAISS indexes bear no writes beside reads (faiss#1504) and remove only by a full pass, so changes
go to a plain table; the next search builds an immutable view from it, once, and swaps it in.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import faiss
import numpy as np
from numpy.typing import NDArray

from consumers.embed.likeness import MOST_MEMBERS, Embedding, Reference, Vectors, learn_reference

# More threads made a scan of 100,000 vectors slower (44 ms with two, 12 ms with one).
_FAISS_THREADS = 1
# Equal up to float noise counts as equal, so that order does not depend on the batch or machine.
_DECIMALS = 5


@dataclass(frozen=True, slots=True)
class Case:
    """What is known of a past case; `sha256` names the bytes of its picture."""

    case_id: str
    product: str
    image_key: str
    sha256: str
    image_id: str | None = None
    part_id: str | None = None
    defect_type: str | None = None
    decision: str | None = None
    decided_at: datetime | None = None
    action_taken: str | None = None

    def digest(self) -> int:
        """128 bits over every field: the case's share in the version of its index."""
        return int.from_bytes(hashlib.sha256(repr(self).encode()).digest()[:16], "big")


@dataclass(frozen=True, slots=True)
class Match:
    """A case and its cosine in [-1, 1]."""

    case: Case
    similarity: float


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for, and what may be found; absent limits match all.

    The query's own picture, image and part are left out: a case is not evidence for itself.
    """

    embedding: Embedding
    product: str | None = None
    defect_type: str | None = None
    sha256: str | None = None
    image_id: str | None = None
    part_id: str | None = None
    k: int = 5
    min_similarity: float = -1.0

    def admits(self, case: Case) -> bool:
        """Whether the case may be found."""
        if self.defect_type is not None and case.defect_type != self.defect_type:
            return False
        return not (
            case.sha256 == self.sha256
            or (self.image_id is not None and case.image_id == self.image_id)
            or (self.part_id is not None and case.part_id == self.part_id)
        )


@dataclass(frozen=True, slots=True)
class _View:
    """One product's cases at one moment, by case_id; row numbers are those of both indexes."""

    cases: tuple[Case, ...]
    reference: Reference
    plain: faiss.IndexFlatIP
    odd: faiss.IndexFlatIP

    def search(self, query: Query) -> list[Match]:
        """Return the query's matches here, in no stable order."""
        allowed = [row for row, case in enumerate(self.cases) if query.admits(case)]
        if not allowed or query.k < 1:
            return []
        if query.product is None:
            scores, rows = _nearest(self.plain, query.embedding.vector, allowed, query.k)
        else:
            oddity = self.reference.oddity(query.embedding)
            scores, rows = _nearest(self.odd, oddity, allowed, query.k)
        return [
            Match(self.cases[int(row)], float(similarity))
            for similarity, row in zip(scores, rows, strict=True)
            if similarity >= query.min_similarity
        ]


@dataclass(slots=True)
class _Partition:
    """One product's cases by case_id; `view` is None after a change.

    The reference is learnt from the first cases by sha256, so that it depends on what the
    product holds and not on the order of arrival; oddities last as long as their reference.
    """

    entries: dict[str, tuple[Case, Embedding]] = field(default_factory=dict)
    digest: int = 0
    view: _View | None = None
    members: tuple[tuple[str, str], ...] = ()
    reference: Reference | None = None
    oddities: dict[str, Vectors] = field(default_factory=dict)

    def current_view(self) -> _View | None:
        """Build the view if a change asks for it; None without a case."""
        if self.view is None and self.entries:
            reference = self._learn()
            kept = [self.entries[case_id] for case_id in sorted(self.entries)]
            self.oddities = {
                case.sha256: self._oddity(case, embedding, reference) for case, embedding in kept
            }
            odd = [self.oddities[case.sha256] for case, _ in kept]
            plain = [embedding.vector for _, embedding in kept]
            cases = tuple(case for case, _ in kept)
            self.view = _View(cases, reference, _flat(plain), _flat(odd))
        return self.view

    def _learn(self) -> Reference:
        by_bytes = sorted((case.sha256, case_id) for case_id, (case, _) in self.entries.items())
        members = tuple(by_bytes[:MOST_MEMBERS])
        if self.reference is None or members != self.members:
            self.members = members
            self.reference = learn_reference([self.entries[case_id][1] for _, case_id in members])
            self.oddities.clear()
        return self.reference

    def _oddity(self, case: Case, embedding: Embedding, reference: Reference) -> Vectors:
        known = self.oddities.get(case.sha256)
        return reference.oddity(embedding) if known is None else known


class CaseIndex:
    """Cases by similarity. Safe to use from several threads."""

    def __init__(self, dimension: int, namespace: str) -> None:
        """`namespace` names model and weights: vectors of another one never meet these."""
        self.dimension = dimension
        self.namespace = namespace
        self._partitions: dict[str, _Partition] = {}
        self._product_of: dict[str, str] = {}
        self._lock = threading.Lock()
        faiss.omp_set_num_threads(_FAISS_THREADS)

    def put(self, cases: Sequence[Case], embeddings: Sequence[Embedding]) -> None:
        """Add cases, or replace those with the same `case_id`; B of each, in the same order."""
        with self._lock:
            for case, embedding in zip(cases, embeddings, strict=True):
                self._drop(case.case_id)
                part = self._partitions.setdefault(case.product, _Partition())
                part.entries[case.case_id] = (case, embedding)
                part.digest ^= case.digest()
                part.view = None
                self._product_of[case.case_id] = case.product

    def remove(self, case_id: str) -> None:
        """Forget a case; one that is absent is no error."""
        with self._lock:
            self._drop(case_id)

    def search(self, query: Query) -> tuple[tuple[Match, ...], str]:
        """Return the k most similar admitted cases, most similar first, and the index version.

        Filters apply before ranking, so k come back when k exist. Equal similarities are
        ordered by case_id.
        """
        with self._lock:
            chosen = self._chosen(query.product)
            views = [view for part in chosen if (view := part.current_view())]
            version = self._version(chosen)
        found = [match for view in views for match in view.search(query)]
        found.sort(key=lambda match: (-match.similarity, match.case.case_id))
        return tuple(found[: query.k]), version

    def version(self, product: str | None = None) -> str:
        """Name what a search of a product (None: of all) sees; equal content, equal name."""
        with self._lock:
            return self._version(self._chosen(product))

    def counts(self) -> dict[str, int]:
        """Number of cases per product."""
        with self._lock:
            parts = self._partitions.items()
            return {code: len(part.entries) for code, part in parts if part.entries}

    def entries(self) -> list[tuple[Case, Embedding]]:
        """Every case with its embedding, for a snapshot."""
        with self._lock:
            return [entry for part in self._partitions.values() for entry in part.entries.values()]

    def _chosen(self, product: str | None) -> list[_Partition]:
        if product is None:
            return list(self._partitions.values())
        part = self._partitions.get(product)
        return [] if part is None else [part]

    def _version(self, parts: Iterable[_Partition]) -> str:
        digest = 0
        for part in parts:
            digest ^= part.digest
        return f"{self.namespace[-12:]}-{digest:032x}"

    def _drop(self, case_id: str) -> None:
        product = self._product_of.pop(case_id, None)
        if product is None:
            return
        part = self._partitions[product]
        part.digest ^= part.entries.pop(case_id)[0].digest()
        part.view = None


def _flat(vectors: Sequence[Vectors]) -> faiss.IndexFlatIP:
    index = faiss.IndexFlatIP(len(vectors[0]))
    index.add(np.stack(vectors))
    return index


def _nearest(
    index: faiss.IndexFlatIP, vector: Vectors, allowed: Collection[int], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rounded similarities and rows of the k best, and of all that tie with the k-th."""
    parameters = faiss.SearchParameters()
    parameters.sel = faiss.IDSelectorBatch(np.fromiter(allowed, np.int64, len(allowed)))
    asked = min(k + 1, len(allowed))
    while True:
        scores, rows = index.search(vector[np.newaxis], asked, params=parameters)
        rounded = np.round(scores[0].astype(np.float64), _DECIMALS)
        # ties that the cut would divide by chance are fetched whole
        if asked == len(allowed) or rounded[k - 1] > rounded[-1]:
            return rounded, rows[0]
        asked = min(2 * asked, len(allowed))
