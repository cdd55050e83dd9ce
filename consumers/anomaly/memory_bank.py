"""The memory bank: a greedy k-center coreset of normal patches, and exact nearest neighbours in it.

Paper: Roth et al., Towards Total Recall in Industrial Anomaly Detection (CVPR 2022), section 3.2
and algorithm 1; M is the bank, M_C its coreset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from consumers.anomaly.calibration import Calibration

# Called with (done, total) between steps; whatever it raises ends the work.
Watch = Callable[[int, int], None]

_PROJECTED_DIMENSIONS = 128
# Wide enough that one pass over all patches settles hundreds of picks, small enough that the
# candidates' mutual distances (64 MB) stay cheap beside that pass.
_CANDIDATES = 4096
_ROWS_AT_ONCE = 16_384
# Their distances to some thousand vectors stay in the cache: a third faster than all at once.
_QUERIES_AT_ONCE = 256
# A GPU has no such cache and wants much to do: 500 MB for a bank of 16,000 vectors.
_QUERIES_AT_ONCE_ON_GPU = 8192


@dataclass(frozen=True)
class MemoryBank:
    """What is normal for one product; immutable, named by its version.

    Attributes:
        vectors: (M, D) float32, the kept patches, scaled.
        scale: (D,) float32, what a patch is multiplied by before it is compared.
        owners: (M,) int32, the index in `image_keys` of each vector's image.
        descriptors: (N, K) float32, one coarse picture of each normal image's features.
        image_keys: N keys in the object store.
        model: backbone and digest of its weights; only equal ones may score against this bank.
    """

    product: str
    version: str
    vectors: torch.Tensor
    scale: torch.Tensor
    owners: NDArray[np.int32]
    descriptors: torch.Tensor
    image_keys: tuple[str, ...]
    model: str
    calibration: Calibration
    _copies: dict[torch.device, MemoryBank] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _moving: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    @cached_property
    def squared_norms(self) -> torch.Tensor:
        """(M,) float32."""
        return self.vectors.square().sum(dim=1)

    def on(self, device: torch.device) -> MemoryBank:
        """Return this bank with its tensors on a device, where they stay."""
        if self.vectors.device == device:
            return self
        with self._moving:
            if device not in self._copies:
                self._copies[device] = replace(
                    self,
                    vectors=self.vectors.to(device),
                    scale=self.scale.to(device),
                    descriptors=self.descriptors.to(device),
                )
            return self._copies[device]

    @property
    def size_bytes(self) -> int:
        """Memory of its arrays."""
        return self.vectors.nbytes + self.descriptors.nbytes + self.owners.nbytes


class Nearest(NamedTuple):
    """Per query: the Euclidean distance to its nearest vector, and which one that is."""

    distances: torch.Tensor
    indices: torch.Tensor


@torch.inference_mode()
def nearest(
    queries: torch.Tensor,
    vectors: torch.Tensor,
    squared_norms: torch.Tensor,
    banned: torch.Tensor | None = None,
) -> Nearest:
    """Find the nearest vector of each query, exactly.

    The winner is found by |m|^2 - 2 q.m, and only its distance is taken from the difference:
    that form loses no digits to cancellation, so a score does not depend on the batch.

    Args:
        queries: (P, D) float32.
        vectors: (M, D) float32, M >= 1.
        squared_norms: (M,) float32 of `vectors`.
        banned: (M,) bool of vectors that must not win, not all of them.

    Returns:
        (P,) float32 distances and (P,) int64 indices.
    """
    offsets = squared_norms
    if banned is not None:
        offsets = offsets.masked_fill(banned, torch.inf)
    at_once = _QUERIES_AT_ONCE_ON_GPU if queries.is_cuda else _QUERIES_AT_ONCE
    winners = [
        torch.addmm(offsets[None], part, vectors.T, alpha=-2).argmin(dim=1)
        for part in torch.split(queries, at_once)
    ]
    indices = torch.cat(winners)
    return Nearest((queries - vectors[indices]).norm(dim=1), indices)


class Coreset(NamedTuple):
    """Which patches to keep, in the order picked, and the covering radius they leave."""

    indices: torch.Tensor
    radius: float


@torch.inference_mode()
def select_coreset(patches: torch.Tensor, count: int, *, seed: int, watch: Watch) -> Coreset:
    """Pick `count` patches by greedy k-center: each pick is the patch farthest from all before.

    Exactly the greedy order (up to float rounding), without its pass over all patches per pick:
    distances only shrink, so among the candidates with the largest ones picking may go on as
    long as the best candidate still beats the largest distance left outside. Then one matrix
    product brings every patch up to date.

    Args:
        patches: (N, D) float32; above 256 dimensions a seeded random projection to 128 stands
            in for them (Johnson-Lindenstrauss, as in the paper).
        count: how many to keep, 1 to N.
        seed: of the projection and the first pick; equal seeds give equal coresets.
        watch: told (picked, count) after every pass.
    """
    generator = torch.Generator().manual_seed(seed)
    points = _project(patches, generator)
    norms = points.square().sum(dim=1)
    first = int(torch.randint(len(points), (1,), generator=generator))
    picked = [first]
    gaps = torch.full((len(points),), torch.inf)
    _close_gaps(gaps, points, norms, torch.tensor([first]))
    while len(picked) < count:
        fresh = _pick_candidates(gaps, points, norms, count - len(picked))
        picked.extend(fresh.tolist())
        _close_gaps(gaps, points, norms, fresh)
        watch(len(picked), count)
    radius = float(gaps.max().clamp_min(0).sqrt())
    return Coreset(torch.tensor(picked[:count]), radius)


def _project(patches: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    dimensions = patches.shape[1]
    # Below twice the target the projection would cost accuracy and save next to nothing.
    if dimensions <= 2 * _PROJECTED_DIMENSIONS:
        return patches
    matrix = torch.randn(dimensions, _PROJECTED_DIMENSIONS, generator=generator)
    return torch.mm(patches, matrix / _PROJECTED_DIMENSIONS**0.5)


def _pick_candidates(
    gaps: torch.Tensor, points: torch.Tensor, norms: torch.Tensor, wanted: int
) -> torch.Tensor:
    """Pick greedily among the patches with the largest squared gaps, as far as that is exact."""
    size = min(_CANDIDATES, len(points))
    stale, candidates = torch.topk(gaps, size)
    outside = float(stale[-1]) if size < len(points) else -torch.inf
    chosen = points[candidates]
    own = norms[candidates]
    squared = (own[:, None] + own[None] - 2 * chosen @ chosen.T).numpy()
    current = stale.numpy().copy()
    order: list[int] = []
    while len(order) < min(wanted, size):
        best = int(current.argmax())
        if order and current[best] < outside:
            break
        order.append(best)
        np.minimum(current, squared[best], out=current)
        current[best] = -np.inf
    return candidates[torch.tensor(order)]


def _close_gaps(
    gaps: torch.Tensor, points: torch.Tensor, norms: torch.Tensor, fresh: torch.Tensor
) -> None:
    """Lower every patch's squared gap to its distance from the fresh picks, in place."""
    centres, centre_norms = points[fresh], norms[fresh]
    for start in range(0, len(points), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        squared = torch.addmm(centre_norms[None], points[rows], centres.T, alpha=-2)
        closest = squared.min(dim=1).values + norms[rows]
        torch.minimum(gaps[rows], closest.clamp_min_(0), out=gaps[rows])
    # Below every real gap, so that equal patches are never picked twice.
    gaps[fresh] = -1
