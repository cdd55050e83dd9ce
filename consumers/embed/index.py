"""Exact cosine search over past cases: FAISS per product, with ids, replacement and removal.

FAISS indexes bear no writes beside reads (faiss#1504), so one lock orders them; a search of
10,000 cases holds it for about a millisecond.
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

Vectors = NDArray[np.float32]

# More threads made a scan of 100,000 vectors slower (44 ms with two, 12 ms with one).
_FAISS_THREADS = 1
# Equal up to float noise counts as equal, so that order does not depend on the batch or machine.
_DECIMALS = 5
_COMPACT_ABOVE = 64


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

    vector: Vectors
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


@dataclass(slots=True)
class _Partition:
    """One product's cases. A removed row stays as a tombstone until the next compaction."""

    index: faiss.IndexIDMap2
    rows: dict[int, Case] = field(default_factory=dict)
    row_of: dict[str, int] = field(default_factory=dict)
    next_row: int = 0
    digest: int = 0


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

    def put(self, cases: Sequence[Case], vectors: Vectors) -> None:
        """Add cases, or replace those with the same `case_id`.

        Args:
            cases: B cases.
            vectors: (B, D) float32, L2-normalised, in the same order.
        """
        with self._lock:
            for case, vector in zip(cases, vectors, strict=True):
                self._drop(case.case_id)
                self._add(case, vector)

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
            found = [match for part in chosen for match in _search(part, query)]
            version = self._version(chosen)
        found.sort(key=lambda match: (-match.similarity, match.case.case_id))
        return tuple(found[: query.k]), version

    def version(self, product: str | None = None) -> str:
        """Name what a search of a product (None: of all) sees; equal content, equal name."""
        with self._lock:
            return self._version(self._chosen(product))

    def counts(self) -> dict[str, int]:
        """Number of cases per product."""
        with self._lock:
            return {code: len(part.rows) for code, part in self._partitions.items() if part.rows}

    def entries(self) -> list[tuple[Case, Vectors]]:
        """Every case with its vector, for a snapshot."""
        with self._lock:
            return [
                (case, np.asarray(part.index.reconstruct(row), dtype=np.float32))
                for part in self._partitions.values()
                for row, case in part.rows.items()
            ]

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

    def _add(self, case: Case, vector: Vectors) -> None:
        part = self._partitions.get(case.product)
        if part is None:
            flat = faiss.IndexIDMap2(faiss.IndexFlatIP(self.dimension))
            part = self._partitions[case.product] = _Partition(flat)
        row = part.next_row
        part.next_row += 1
        part.index.add_with_ids(vector[np.newaxis], np.array([row], dtype=np.int64))
        part.rows[row] = case
        part.row_of[case.case_id] = row
        part.digest ^= case.digest()
        self._product_of[case.case_id] = case.product

    def _drop(self, case_id: str) -> None:
        product = self._product_of.pop(case_id, None)
        if product is None:
            return
        part = self._partitions[product]
        part.digest ^= part.rows.pop(part.row_of.pop(case_id)).digest()
        dead = int(part.index.ntotal) - len(part.rows)
        # one removal is a full pass over the vectors (28 ms for 100,000), so they go together
        if dead > max(_COMPACT_ABOVE, len(part.rows) // 4):
            part.index.remove_ids(faiss.IDSelectorNot(_selector(part.rows)))


def _selector(rows: Collection[int]) -> faiss.IDSelectorBatch:
    return faiss.IDSelectorBatch(np.fromiter(rows, dtype=np.int64, count=len(rows)))


def _search(part: _Partition, query: Query) -> list[Match]:
    allowed = [row for row, case in part.rows.items() if query.admits(case)]
    if not allowed or query.k < 1:
        return []
    selector = _selector(allowed)
    vector = query.vector.reshape(1, -1)
    asked = min(query.k + 1, len(allowed))
    while True:
        parameters = faiss.SearchParameters()
        parameters.sel = selector
        scores, rows = part.index.search(vector, asked, params=parameters)
        rounded = np.round(scores[0].astype(np.float64), _DECIMALS)
        # ties that the cut would divide by chance are fetched whole
        if asked == len(allowed) or rounded[query.k - 1] > rounded[-1]:
            break
        asked = min(2 * asked, len(allowed))
    return [
        Match(part.rows[int(row)], float(similarity))
        for similarity, row in zip(rounded, rows[0], strict=True)
        if similarity >= query.min_similarity
    ]
