"""JPEGs by OpenCV for the roles that decode every image: Pillow's pixels in half of its time.

Both bring the same decoder, libjpeg-turbo. Pillow keeps four bytes a pixel and packs them twice on
their way to an array; OpenCV decodes into the array.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from adapters import pictures

# As the file has it: whoever turns a picture upright has read its header before.
_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode_jpeg(jpeg: bytes) -> NDArray[np.uint8] | None:
    """Decode a JPEG of one or three components to (H, W, 3) uint8 RGB, not turned.

    Returns:
        None where bytes are missing or OpenCV does not take the file; Pillow says why. Broken
        codes make libjpeg write a line to stderr, which no caller can turn off.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), _AS_STORED)
    except cv2.error:
        return None
    return None if pixels is None else pixels.astype(np.uint8, copy=False)


decode_rgb = partial(pictures.decode_rgb, decode_jpeg=decode_jpeg)
