"""What is unusual about a picture of a product: the part of its features that can tell defects.

Photos of one product are nearly equal, so whole-picture cosines crowd together just below 1
(0.990 to 0.993 for drawn parts) and a defect of 0.2 % of the area hardly moves them. So within a
product we compare each picture's *oddity*: its few cells that differ most from what the
product's other cases show at the same place, as PatchCore looks for them. On the drawn samples
(held-out defects, half of them cases) this finds a case of the same defect type first in 0.90 of
the searches; means and maxima over the whole picture do so in 0.45 to 0.55.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

# Enough cases to know the part; more would only slow a change down.
MOST_MEMBERS = 64
# A product's only case must not vanish with its mean: n cases take n / (n + 0.25) of it away.
_MEAN_PRIOR = 0.25
# Four to eight cells did equally well; a defect of 0.2 % of the area covers about five.
_ODD_CELLS = 6
_LEAST_SPREAD = 1e-3


class Embedding(NamedTuple):
    """A picture as its encoder sees it.

    Attributes:
        vector: (D,) float32 of length 1, the whole picture.
        cells: (N, C) float16, local features in a fixed grid, row by row; (0, 0) when the model
            offers none.
    """

    vector: Vectors
    cells: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Reference:
    """What the cases of a product have in common.

    Attributes:
        vector: (D,) the mean to take away from whole-picture vectors.
        cells: (N, C) the mean of every cell, None when the model offers no cells.
        everywhere: (C,) the mean over all cells.
        spread: (C,) standard deviation of a cell among the cases.
    """

    vector: Vectors
    cells: Vectors | None
    everywhere: Vectors
    spread: Vectors

    def oddity(self, embedding: Embedding) -> Vectors:
        """Return how a picture differs from the reference: float32 of length 1.

        With cells, the first half says how its odd cells differ from what belongs there, the
        second half what they show.
        """
        if self.cells is None:
            return normalised(embedding.vector - self.vector)
        seen = embedding.cells.astype(np.float32)
        difference = (seen - self.cells) / self.spread
        novelty = np.einsum("nc,nc->n", difference, difference)
        odd = np.argsort(-novelty, kind="stable")[:_ODD_CELLS]
        shown = (seen[odd].mean(axis=0) - self.everywhere) / self.spread
        halves = (normalised(difference[odd].mean(axis=0)), normalised(shown))
        return normalised(np.concatenate(halves))


def learn_reference(embeddings: Sequence[Embedding]) -> Reference:
    """Learn from at least one case; equal for equal input in equal order."""
    count = len(embeddings)
    share = count / (count + _MEAN_PRIOR)
    vectors = np.array([item.vector for item in embeddings], dtype=np.float64)
    vector = np.asarray(vectors.mean(axis=0) * share, dtype=np.float32)
    nothing = np.ones(1, np.float32)
    if embeddings[0].cells.size == 0:
        return Reference(vector, None, nothing, nothing)
    total = np.zeros(embeddings[0].cells.shape, np.float64)
    squares = np.zeros_like(total)
    for item in embeddings:  # one by one: all at once would take gigabytes
        seen = item.cells.astype(np.float64)
        total += seen
        squares += seen * seen
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean * mean, 0)).mean(axis=0)
    if count == 1:
        spread = mean.std(axis=0)  # one case has no spread among cases
    return Reference(
        vector,
        (mean * share).astype(np.float32),
        np.asarray(mean.mean(axis=0), dtype=np.float32),
        np.asarray(spread + _LEAST_SPREAD, dtype=np.float32),
    )


def normalised(vector: Vectors) -> Vectors:
    """Scale to length 1; zero stays zero."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), dtype=np.float32)
