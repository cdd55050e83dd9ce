"""How far a trivial score gets: shows when a data set is too easy to prove anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from app.demo.publishing import Sent
from app.demo.summary import auroc


def baseline_auroc(items: Sequence[Sent]) -> float | None:
    """Best AUROC of mean brightness, its deviation and file size, in either direction."""
    features = [_features(item) for item in items]
    best: float | None = None
    for column in range(3):
        good = [row[column] for row, i in zip(features, items, strict=True) if not i.is_defect]
        bad = [row[column] for row, i in zip(features, items, strict=True) if i.is_defect]
        value = auroc(good, bad)
        if value is not None:
            best = max(best or 0.0, value, 1 - value)
    return best


def _features(item: Sent) -> tuple[float, float, float]:
    with Image.open(item.path) as image:
        grey = np.asarray(image.convert("L"), dtype=np.float32)
    return float(grey.mean()), float(grey.std()), float(item.path.stat().st_size)
