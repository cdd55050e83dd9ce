"""Score, threshold and band to a verdict; pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

DEFAULT_BAND = (0.97, 1.03)


class Decision(NamedTuple):
    """A verdict and the slug of why."""

    verdict: Literal["OK", "NG", "REVIEW"]
    reason: str


def decide_verdict(
    score: float, threshold: float, band: tuple[float, float] = DEFAULT_BAND
) -> Decision:
    """Decide on one image.

    Args:
        score: Euclidean patch distance of the image, >= 0.
        threshold: above it an image is a reject, > 0.
        band: factors of the threshold, low <= 1 <= high, between which a person decides; both
            ends belong to the band unless it is empty (1, 1).
    """
    low, high = threshold * band[0], threshold * band[1]
    if score > high:
        return Decision("NG", "above_threshold")
    if score < low or low >= high:
        return Decision("OK", "below_threshold")
    return Decision("REVIEW", "within_review_band")
