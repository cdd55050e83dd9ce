"""A map as a picture: cividis on the product's fixed scale, transparent where it is normal."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from consumers.anomaly.regions import Extent

# A map has some 40 cells a side; more pixels than this show nothing more.
_LONG_SIDE_PX = 512
# Faint where the suspicion begins, so that the part stays visible below.
_ALPHA_MIN = 70
# Smooth and mostly transparent: the other filters take four times as long and pack no better.
_PNG_SPEED = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_NONE,
)


def render_heatmap(
    anomaly_map: NDArray[np.float32], extent: Extent, *, low: float, high: float
) -> bytes:
    """Return an RGBA PNG over the whole image, its aspect kept, long side at most 512 px.

    The scale is the product's, never the image's own: a normal part stays transparent instead
    of glowing at its own maximum.

    Args:
        anomaly_map: (rows, columns) float32 distances.
        extent: the image's size and the map's scale.
        low: at or below it a pixel is transparent.
        high: at or above it a pixel has the top colour, > low.
    """
    scale = min(1.0, _LONG_SIDE_PX / max(extent.height, extent.width))
    height, width = max(1, round(extent.height * scale)), max(1, round(extent.width * scale))
    rows, columns = anomaly_map.shape
    covered = (
        max(width, round(columns * extent.cell_px * scale)),
        max(height, round(rows * extent.cell_px * scale)),
    )
    values = cv2.resize(anomaly_map, covered, interpolation=cv2.INTER_LINEAR)[:height, :width]
    # 0 is at or below `low`; whatever lies above it is at least 1, and shows.
    level = np.ceil((values - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    picture = _PALETTE[level].view(np.uint8).reshape(height, width, 4)
    done, encoded = cv2.imencode(".png", picture, list(_PNG_SPEED))
    assert done, "cv2 encodes any uint8 RGBA array"
    return encoded.tobytes()


def _palette() -> NDArray[np.uint32]:
    """Return (256,) BGRA pixels, four bytes in one number, by level; level 0 is transparent."""
    levels = np.arange(256, dtype=np.uint8)
    colours = cv2.applyColorMap(levels[:, None], cv2.COLORMAP_CIVIDIS)[:, 0]
    alpha = _ALPHA_MIN + levels / 255 * (255 - _ALPHA_MIN)
    pixels = np.column_stack([colours, alpha.astype(np.uint8)])
    pixels[0] = 0
    return np.ascontiguousarray(pixels).view(np.uint32)[:, 0]


_PALETTE = _palette()
