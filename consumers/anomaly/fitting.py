"""From normal images' patches to a calibrated bank."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from consumers.anomaly.calibration import calibrate
from consumers.anomaly.features import FeatureExtractor, PatchGrid, Recipe
from consumers.anomaly.memory_bank import MemoryBank, Watch, nearest, select_coreset
from consumers.anomaly.scoring import anomaly_map, descriptor, image_score

# A tiny set would keep a handful of patches at 1 %; this many cost nothing.
_MIN_VECTORS = 512
_SEED = 0
# Counts up when the same photos would give another bank.
_METHOD = 1


def balance(patches: torch.Tensor, channels: Sequence[int]) -> torch.Tensor:
    """Return the scale at which every feature map contributes the same variance to a distance.

    Without it the map with the largest activations decides alone: which one that is depends on
    the network and the product, not on where defects show.

    Args:
        patches: (N, D) float32 of normal images.
        channels: how many columns each map has, in order; they sum to D.

    Returns:
        (D,) float32; scaled, the variances of each map's columns sum to 1.
    """
    parts = torch.split(patches.var(dim=0), list(channels))
    totals = torch.stack([part.sum() for part in parts])
    # A map that never changes carries no scale; it must not be blown up to noise.
    floors = totals.clamp_min(max(1e-3 * float(totals.max()), 1e-12))
    return torch.repeat_interleave(floors.rsqrt(), torch.tensor(channels))


def model_name(extractor: FeatureExtractor) -> str:
    """Name of the network with its weights: banks of another name are refused."""
    return f"{extractor.recipe.backbone}@{extractor.weights_sha256[:12]}"


@dataclass(frozen=True, slots=True)
class FitPlan:
    """What decides a bank's content; equal plans over equal images give equal versions."""

    recipe: Recipe
    channels: tuple[int, ...]
    model: str
    coreset_ratio: float
    seed: int = _SEED

    def version(self, image_keys: Sequence[str]) -> str:
        """Name of the bank made from these images: 12 hex digits."""
        identity = json.dumps(
            [
                _METHOD,
                asdict(self.recipe),
                self.model,
                self.coreset_ratio,
                self.seed,
                sorted(image_keys),
            ],
            sort_keys=True,
        )
        return hashlib.sha256(identity.encode()).hexdigest()[:12]


def plan_for(extractor: FeatureExtractor, coreset_ratio: float) -> FitPlan:
    """Plan banks for the network that will judge with them."""
    return FitPlan(extractor.recipe, extractor.channels, model_name(extractor), coreset_ratio)


@dataclass(slots=True)
class Normals:
    """Patches of normal images, as they are collected."""

    keys: list[str] = field(default_factory=list)
    grids: list[PatchGrid] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def add(
        self,
        images: Mapping[str, NDArray[np.uint8]],
        extractor: FeatureExtractor,
    ) -> None:
        """Compute and keep the patches of decoded images, by their keys."""
        for key, grid in zip(images, extractor.patches(list(images.values())), strict=True):
            self.keys.append(key)
            self.grids.append(grid)


class FittedBank(NamedTuple):
    """A bank and how it was made."""

    bank: MemoryBank
    notes: dict[str, Any]


def fit_bank(
    product: str, version: str, normals: Normals, plan: FitPlan, watch: Callable[[str], Watch]
) -> FittedBank:
    """Choose the coreset, then calibrate with each image scored against all others' patches.

    Args:
        product: code.
        version: the bank's name.
        normals: at least two images' patches.
        plan: ratio and seed.
        watch: gives the progress callback of a step (`coreset`, `calibrating`).
    """
    counts = [len(grid.patches) for grid in normals.grids]
    patches = torch.cat([grid.patches for grid in normals.grids])
    scale = balance(patches, plan.channels)
    patches *= scale
    owners = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    wanted = min(len(patches), max(_MIN_VECTORS, round(plan.coreset_ratio * len(patches))))
    candidates = _checkerboard(normals.grids)
    wanted = min(wanted, len(candidates))
    coreset = select_coreset(patches[candidates], wanted, seed=plan.seed, watch=watch("coreset"))
    kept = candidates[coreset.indices]
    vectors = patches[kept].contiguous()
    vector_owners = owners[kept.numpy()]
    scores, maps = _score_left_out(normals.grids, (vectors, scale), vector_owners, plan, watch)
    bank = MemoryBank(
        product=product,
        version=version,
        vectors=vectors,
        scale=scale,
        owners=vector_owners,
        descriptors=torch.stack(
            [descriptor(grid.patches, grid.rows, grid.columns) for grid in normals.grids]
        ),
        image_keys=tuple(normals.keys),
        model=plan.model,
        calibration=calibrate(scores, maps),
    )
    notes = {
        "recipe": asdict(plan.recipe),
        "coreset_ratio": plan.coreset_ratio,
        "coreset_radius": coreset.radius,
        "seed": plan.seed,
        "left_out": normals.left_out,
        "normal_scores": dict(zip(normals.keys, scores, strict=True)),
    }
    return FittedBank(bank, notes)


def _checkerboard(grids: Sequence[PatchGrid]) -> torch.Tensor:
    """Return the places of every other patch, rows and images alternating, (K,) int64.

    A patch averages over its neighbours, so those left out are nearly those kept: half the time
    and memory for the same bank.
    """
    masks = []
    for index, grid in enumerate(grids):
        parity = torch.arange(grid.rows)[:, None] + torch.arange(grid.columns) + index
        masks.append(parity.flatten() % 2 == 0)
    return torch.cat(masks).nonzero().flatten()


def _score_left_out(
    grids: Sequence[PatchGrid],
    kept: tuple[torch.Tensor, torch.Tensor],
    owners: NDArray[np.int32],
    plan: FitPlan,
    watch: Callable[[str], Watch],
) -> tuple[list[float], list[NDArray[np.float32]]]:
    """Score every normal image as if it were new: its own vectors may not answer."""
    tell = watch("calibrating")
    vectors, scale = kept
    norms = vectors.square().sum(dim=1)
    owner_of = torch.from_numpy(owners)
    scores, maps = [], []
    for index, grid in enumerate(grids):
        found = nearest(grid.patches * scale, vectors, norms, banned=owner_of == index)
        scores.append(image_score(found.distances, plan.recipe.top_fraction))
        maps.append(anomaly_map(found.distances, grid.rows, grid.columns))
        tell(index + 1, len(grids))
    return scores, maps
