"""Images against their banks: features, search, score, map, regions; no IO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from consumers.anomaly.features import FeatureExtractor, PatchGrid
from consumers.anomaly.heatmap import render_heatmap
from consumers.anomaly.memory_bank import MemoryBank, nearest
from consumers.anomaly.regions import Extent, find_regions
from consumers.anomaly.scoring import anomaly_map, descriptor, image_score
from schemas.anomalies import HeatmapScale, NearestNormal, Region


class Finding(NamedTuple):
    """What was found in an image; `score` is a Euclidean patch distance, `heatmap` a PNG."""

    score: float
    regions: tuple[Region, ...]
    heatmap: bytes
    scale: HeatmapScale
    nearest_normal: NearestNormal


@torch.inference_mode()
def inspect(
    extractor: FeatureExtractor, images: Sequence[tuple[NDArray[np.uint8], MemoryBank]]
) -> list[Finding]:
    """Inspect a batch; an image's finding does not depend on its neighbours in it.

    Args:
        extractor: the network that made the banks.
        images: (H, W, 3) uint8 RGB each, with its product's bank.
    """
    grids = extractor.patches([pixels for pixels, _ in images], on_device=True)
    top_fraction = extractor.recipe.top_fraction
    return [
        _find(pixels.shape, bank, grid, top_fraction)
        for (pixels, bank), grid in zip(images, grids, strict=True)
    ]


def _find(
    shape: tuple[int, ...],
    bank: MemoryBank,
    grid: PatchGrid,
    top_fraction: float,
) -> Finding:
    bank = bank.on(grid.patches.device)
    # One image has two thousand queries: a search shared with others would gain nothing.
    found = nearest(grid.patches * bank.scale, bank.vectors, bank.squared_norms)
    distances = found.distances.cpu()
    calibration = bank.calibration
    extent = Extent(shape[0], shape[1], grid.cell_px)
    heat = anomaly_map(distances, grid.rows, grid.columns)
    low, high = calibration.map_low, calibration.map_high
    return Finding(
        score=image_score(distances, top_fraction),
        regions=find_regions(heat, extent, low=low, seed=calibration.map_threshold),
        heatmap=render_heatmap(heat, extent, low=low, high=high),
        scale=HeatmapScale(low=low, high=high, cell_px=grid.cell_px),
        nearest_normal=_nearest_normal(bank, grid),
    )


def _nearest_normal(bank: MemoryBank, grid: PatchGrid) -> NearestNormal:
    own = descriptor(grid.patches, grid.rows, grid.columns)
    gaps = (bank.descriptors - own).norm(dim=1)
    index = int(gaps.argmin())
    return NearestNormal(image_key=bank.image_keys[index], distance=float(gaps[index]))
