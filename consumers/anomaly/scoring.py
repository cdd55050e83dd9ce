"""From patch distances to an image's score and its anomaly map."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name every reader of torch code knows
from numpy.typing import NDArray

# In map cells; the paper smooths with 4 px at 1/8 resolution, which is half a cell.
_SIGMA_CELLS = 0.7
_RADIUS_CELLS = 3
_DESCRIPTOR_SIDE = 2


def image_score(distances: torch.Tensor, top_fraction: float) -> float:
    """Average the largest patch distances (s* of the paper is the largest alone).

    A mean over a few patches is steadier than the maximum under sensor noise, and still rests
    on half a percent of the area.

    Args:
        distances: (P,) float32 Euclidean distances.
        top_fraction: share of the patches that count, in (0, 1]; at least one does.
    """
    count = max(1, round(top_fraction * len(distances)))
    return float(torch.topk(distances, count).values.double().mean())


def anomaly_map(distances: torch.Tensor, rows: int, columns: int) -> NDArray[np.float32]:
    """Lay distances out as the image lies and smooth them a little.

    Args:
        distances: (rows * columns,) float32.
        rows: cells from top to bottom.
        columns: cells from left to right.

    Returns:
        (rows, columns) float32, in the unit of the distances.
    """
    offsets = torch.arange(-_RADIUS_CELLS, _RADIUS_CELLS + 1, dtype=torch.float32)
    kernel = torch.exp(-offsets.square() / (2 * _SIGMA_CELLS**2))
    kernel = kernel / kernel.sum()
    grid = distances.reshape(1, 1, rows, columns)
    grid = F.pad(grid, (_RADIUS_CELLS,) * 4, mode="replicate")
    smooth = F.conv2d(F.conv2d(grid, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    result: NDArray[np.float32] = smooth[0, 0].numpy()
    return result


def descriptor(patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Describe a whole image coarsely: its mean patch in each quarter, (4 * D,) float32.

    The nearest normal image by this is one taken alike (pose, light), which is what a person
    wants to compare with; the nearest patches alone may all come from one odd image.
    """
    grid = patches.T.reshape(1, patches.shape[1], rows, columns)
    return F.adaptive_avg_pool2d(grid, _DESCRIPTOR_SIDE).flatten()
