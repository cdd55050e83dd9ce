"""Thresholds from normal images alone, scored out of sample; pure numbers."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

TARGET_FALSE_REJECT = 0.01
# One normal image in twenty may show a region: it decides nothing, and a rejected image that
# shows none helps nobody.
_FALSE_REGION_RATE = 0.05
_PIXEL_QUANTILE = 0.995


@dataclass(frozen=True, slots=True)
class Calibration:
    """A bank's own scale; every value is a Euclidean patch distance.

    Attributes:
        threshold: image scores above it are rejects.
        threshold_source: where it comes from, in words.
        target_false_reject: share of fresh normals meant to lie above it, in (0, 1).
        map_low: what 99.5 % of normal cells stay below; a region reaches out to here.
        map_threshold: what a cell must pass to start a region.
        map_high: top of the heatmap's scale.
        scores: the normals' scores, ascending.
    """

    threshold: float
    threshold_source: str
    target_false_reject: float
    map_low: float
    map_threshold: float
    map_threshold_source: str
    map_high: float
    scores: tuple[float, ...]

    def percentile(self, score: float) -> float:
        """Share of the normals that score lower, 0 to 100."""
        return 100.0 * bisect_left(self.scores, score) / len(self.scores)

    def as_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "scores": list(self.scores)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Calibration:
        """Undo `as_json`."""
        return cls(**{**data, "scores": tuple(data["scores"])})


def calibrate(
    scores: Sequence[float],
    maps: Sequence[NDArray[np.float32]],
    *,
    target_false_reject: float = TARGET_FALSE_REJECT,
) -> Calibration:
    """Set the thresholds from normals that were scored without themselves in the bank.

    Args:
        scores: image score of each normal, out of sample; scores of images in the bank are near
            zero and say nothing. At least two.
        maps: their anomaly maps, (rows, columns) float32.
        target_false_reject: accepted share of false rejects, in (0, 1).
    """
    threshold, source = quantile_above(scores, target_false_reject)
    peaks = [float(one.max()) for one in maps]
    map_threshold, map_source = quantile_above(peaks, _FALSE_REGION_RATE)
    cells = np.concatenate([one.ravel() for one in maps])
    map_low = min(float(np.quantile(cells, _PIXEL_QUANTILE)), map_threshold)
    return Calibration(
        threshold=threshold,
        threshold_source=source,
        target_false_reject=target_false_reject,
        map_low=map_low,
        map_threshold=map_threshold,
        map_threshold_source=f"peaks of normal maps: {map_source}",
        # The threshold sits mid-scale: normals stay dark, and twice the excess is full colour.
        map_high=map_threshold + max(map_threshold - map_low, 0.25 * map_threshold),
        scores=tuple(sorted(float(score) for score in scores)),
    )


def quantile_above(values: Sequence[float], rate: float) -> tuple[float, str]:
    """Return a bound that a fresh value passes with at most this rate, and its source in words.

    The conformal quantile, the ceil((n + 1)(1 - rate))-th smallest, holds for any distribution
    when n is large enough for that rank to exist. Below that (n < 99 for 1 %) no order statistic
    can promise the rate; then a log-normal prediction bound is used, never below the maximum,
    and the source says so.

    Args:
        values: positive numbers, at least two.
        rate: in (0, 1).
    """
    n = len(values)
    rank = math.ceil((n + 1) * (1 - rate))
    percent = f"{100 * (1 - rate):g} %"
    if rank <= n:
        return sorted(values)[rank - 1], f"conformal {percent} quantile of {n} normals"
    logs = [math.log(max(value, 1e-12)) for value in values]
    spread = stdev(logs) * math.sqrt(1 + 1 / n)
    bound = math.exp(fmean(logs) + _student_quantile(1 - rate, n - 1) * spread)
    source = f"log-normal {percent} bound: {n} normals are too few for a quantile"
    return max(bound, *values), source


def _student_quantile(probability: float, freedom: int) -> float:
    """Approximate Student's t quantile by its Cornish-Fisher series (within 1 % from 5 degrees)."""
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
