"""One picture of many, to look at: `python -m app.samples.contact_sheet OUT.jpg PICTURE...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

_TILE = (320, 240)


def contact_sheet(files: Sequence[Path], columns: int = 4) -> bytes:
    """Return a JPEG that shows the files as tiles of 320 x 240, row by row.

    Raises:
        ValueError: no files, or one is no picture.
    """
    tiles = [_tile(path) for path in files]
    if not tiles:
        raise ValueError("a contact sheet needs at least one picture")
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    _, data = cv2.imencode(".jpg", np.vstack(rows))
    return data.tobytes()


def _tile(path: Path) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise ValueError(f"{path} is no picture")
    return np.asarray(cv2.resize(decoded, _TILE, interpolation=cv2.INTER_AREA))


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(contact_sheet([Path(name) for name in sys.argv[2:]]))
