"""Regions of interest: where a map is suspicious, in the pixels of the original image."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.anomalies import Region

MAX_REGIONS = 20
# Steps per map cell: fine enough for a smooth outline, coarse enough for a millisecond; odd, so
# that a cell's own value is among them and a peak that passes the threshold is seen to do so.
_STEPS = 5
_MIN_AREA_CELLS = 0.5


class Extent(NamedTuple):
    """The image that a map covers: its size in pixels and the pixels per map cell."""

    height: int
    width: int
    cell_px: float


def find_regions(
    anomaly_map: NDArray[np.float32], extent: Extent, *, low: float, seed: float
) -> tuple[Region, ...]:
    """Find the places above `low` that reach `seed` somewhere (hysteresis), strongest first.

    Places closer than one cell become one. At most 20 are returned; equal scores are ordered
    from top to bottom, then from left to right.

    Args:
        anomaly_map: (rows, columns) float32 distances.
        extent: the image's size and the map's scale.
        low: a region reaches out to here.
        seed: what a region must hold, >= low.
    """
    fine = _refine(anomaly_map, extent)
    above = (fine > low).astype(np.uint8)
    # Joining what lies within a cell keeps a broken scratch one region.
    joined = cv2.morphologyEx(above, cv2.MORPH_CLOSE, np.ones((_STEPS + 2,) * 2, np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    pixels_per_step = extent.cell_px / _STEPS
    found = []
    for label in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[label])
        window = (slice(top, top + height), slice(left, left + width))
        inside = labels[window] == label
        peak = float(fine[window][inside].max())
        if peak <= seed or area < _MIN_AREA_CELLS * _STEPS**2:
            continue
        found.append(_region(inside, (left, top), peak, pixels_per_step, extent))
    found.sort(key=lambda region: (-region.score, region.y, region.x))
    return tuple(found[:MAX_REGIONS])


def _refine(anomaly_map: NDArray[np.float32], extent: Extent) -> NDArray[np.float32]:
    """Interpolate to `_STEPS` per cell and cut what lies beyond the image."""
    rows, columns = anomaly_map.shape
    fine = cv2.resize(
        anomaly_map, (columns * _STEPS, rows * _STEPS), interpolation=cv2.INTER_LINEAR
    )
    step = extent.cell_px / _STEPS
    inside = fine[: math.ceil(extent.height / step), : math.ceil(extent.width / step)]
    return np.ascontiguousarray(inside, np.float32)


def _region(
    inside: NDArray[np.bool_],
    corner: tuple[int, int],
    peak: float,
    step_px: float,
    extent: Extent,
) -> Region:
    left, top = corner
    height, width = inside.shape
    x, y = int(left * step_px), int(top * step_px)
    right = min(extent.width, round((left + width) * step_px))
    bottom = min(extent.height, round((top + height) * step_px))
    contours, _ = cv2.findContours(
        inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    # Regions are 8-connected, so there is one outer contour.
    points = cv2.approxPolyDP(contours[0], 0.75, closed=True)[:, 0, :]
    outline = tuple(
        (
            min(extent.width, max(0, round((left + px + 0.5) * step_px))),
            min(extent.height, max(0, round((top + py + 0.5) * step_px))),
        )
        for px, py in points.tolist()
    )
    area = int(np.count_nonzero(inside))
    return Region(
        x=x,
        y=y,
        width=max(1, right - x),
        height=max(1, bottom - y),
        area_px=max(1, round(area * step_px**2)),
        score=peak,
        outline=outline,
    )
