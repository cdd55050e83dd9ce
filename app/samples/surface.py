"""How drawn products get their looks: relief, metal, light, lens and sensor.

Arrays are `(H, W)` or `(H, W, 3)` float32; colours are linear RGB, about 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

WIDTH, HEIGHT = 800, 600
MARGIN = 32  # room to shift and turn the part without showing the canvas's edge
CANVAS = (HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN)


@dataclass(frozen=True, slots=True)
class Photo:
    """A drawn photo, `(H, W, 3)` uint8 RGB, and where its defect lies, `(H, W)` bool."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pose:
    """How the part lies under the camera: turn in degrees, shift in pixels, scale."""

    degrees: float
    dx: float
    dy: float
    scale: float

    def matrix(self) -> NDArray[np.float64]:
        """`(2, 3)` affine map of canvas pixels."""
        height, width = CANVAS
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), self.degrees, self.scale)
        shift = np.array([[0, 0, self.dx], [0, 0, self.dy]])
        return np.asarray(turn + shift, dtype=np.float64)

    def place(self, layer: Array, border: float = 0.0) -> Array:
        """Move a canvas layer with the part."""
        size = (CANVAS[1], CANVAS[0])
        moved = cv2.warpAffine(
            layer, self.matrix(), size, flags=cv2.INTER_LINEAR, borderValue=(border,) * 4
        )
        return np.asarray(moved, dtype=np.float32)

    def place_all(self, *layers: Array) -> tuple[Array, ...]:
        """Move up to four layers at once, which costs little more than one."""
        moved = self.place(np.dstack(layers))
        return tuple(moved[..., number] for number in range(len(layers)))


def random_pose(rng: np.random.Generator) -> Pose:
    """A part is laid into its nest by a machine: nearly, never exactly, the same place."""
    dx, dy = rng.normal(0, 3.0, 2)
    return Pose(float(rng.normal(0, 0.7)), float(dx), float(dy), float(rng.normal(1.0, 0.004)))


@cache
def grid() -> tuple[Array, Array]:
    """Canvas coordinates in pixels, the origin at the centre."""
    height, width = CANVAS
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    return xs - width / 2, ys - height / 2


def to_fixed_point(points: Array) -> NDArray[np.int32]:
    """Points with the origin at the centre as OpenCV draws them: canvas pixels times 16."""
    centre = np.array([CANVAS[1] / 2, CANVAS[0] / 2])
    return np.asarray(np.round((points + centre) * 16), dtype=np.int32)


def noise(rng: np.random.Generator, cell_px: float) -> Array:
    """Smooth noise over the canvas, about unit variance, with blobs of `cell_px`."""
    height, width = CANVAS
    small = rng.standard_normal(
        (int(height / cell_px) + 3, int(width / cell_px) + 3), dtype=np.float32
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def grooves(rng: np.random.Generator, distance: Array, period_px: float) -> Array:
    """Tool marks: noise that depends on the distance from a cutter's centre alone."""
    length = int(float(distance.max()) / period_px) + 4
    marks = rng.standard_normal(length).astype(np.float32)
    return np.asarray(np.interp(distance / period_px, np.arange(length), marks), dtype=np.float32)


def smooth_step(values: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def slopes(height: Array) -> tuple[Array, Array]:
    """Slope of a relief in x and y (pixels per pixel)."""
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    return np.asarray(dx), np.asarray(dy)


@dataclass(frozen=True, slots=True)
class Light:
    """A soft box (direction and strength) in a bright room."""

    x: float
    y: float
    strength: float
    room: float


def random_light(rng: np.random.Generator) -> Light:
    """A lamp that ages, warms up and is bumped into, a little."""
    return Light(
        float(rng.normal(-0.42, 0.02)),
        float(rng.normal(-0.5, 0.02)),
        float(rng.normal(1.0, 0.05)),
        float(rng.normal(0.34, 0.015)),
    )


def reflect(sx: Array, sy: Array, light: Light, roughness: float) -> Array:
    """What a metal with these slopes mirrors of soft box and room.

    The camera is near: the mirrored direction changes across the picture, so that flat
    faces show a gradient instead of one grey.
    """
    xs, ys = grid()
    nz = 1.0 / np.sqrt(1.0 + sx * sx + sy * sy)
    rx = -2.0 * nz * nz * sx + xs * np.float32(0.00055)
    ry = -2.0 * nz * nz * sy + ys * np.float32(0.00055)
    box = (rx - light.x) ** 2 + (ry - light.y) ** 2
    ring = (cv2.sqrt(rx * rx + ry * ry) - np.float32(0.9)) ** 2
    glow = cv2.exp(box * np.float32(-1 / (0.10 + roughness))) * np.float32(light.strength)
    rim = cv2.exp(ring * np.float32(-1 / (0.02 + 0.3 * roughness))) * np.float32(0.42)
    sky = light.room * (1.0 - 0.35 * ry - 0.2 * rx)
    return np.asarray(glow + rim + sky, dtype=np.float32)


def shadow_of(coverage: Array, dx: float, dy: float, softness_px: float) -> Array:
    """Soft shadow (0 to 1) that a part casts on what it lies on."""
    move = np.array([[1, 0, dx], [0, 1, dy]], dtype=np.float64)
    moved = cv2.warpAffine(coverage, move, (coverage.shape[1], coverage.shape[0]))
    # blurred at a quarter of the size: a soft shadow has no detail to lose
    small = cv2.resize(moved, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), softness_px / 4)
    size = (coverage.shape[1], coverage.shape[0])
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR))


def blend(below: Array, above: Array, coverage: Array) -> Array:
    """Lay `above` on `below` where `coverage` is 1."""
    alpha = coverage[..., None]
    return np.asarray(below + (above - below) * alpha, dtype=np.float32)


def expose(rng: np.random.Generator, scene: Array) -> NDArray[np.uint8]:
    """Photograph a scene: vignette, exposure, white balance, lens blur, sensor noise, gamma."""
    xs, ys = (crop(layer) for layer in grid())
    scene = crop(scene)
    falloff = 1.0 - (xs * xs + ys * ys) * np.float32(rng.normal(6.0e-7, 0.6e-7))
    balance = (rng.normal(1.0, 0.012, 3) * rng.normal(1.0, 0.035)).astype(np.float32)
    lit = scene * falloff[..., None] * balance
    blurred = cv2.GaussianBlur(lit, (0, 0), float(rng.uniform(0.55, 0.85)))
    lit = np.clip(blurred, 0, None).astype(np.float32)
    # shot noise grows with the root of the light; the colour of neighbours is interpolated
    grain = rng.standard_normal(lit.shape[:2], dtype=np.float32)[..., None]
    coarse = rng.standard_normal((HEIGHT // 2, WIDTH // 2, 3), dtype=np.float32)
    grain = grain + 0.7 * cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    level = float(rng.uniform(0.7, 1.3)) * 0.8
    lit += grain * (np.float32(0.006 * level) + np.float32(0.011 * level) * cv2.sqrt(lit))
    index = np.clip(lit * (_CURVE_STEPS / 2), 0, _CURVE_STEPS - 1).astype(np.uint16)
    return np.asarray(_curve()[index], dtype=np.uint8)


_CURVE_STEPS = 4096


@cache
def _curve() -> NDArray[np.uint8]:
    """A sensor's shoulder instead of a hard clip, then gamma; light 0 to 2 in equal steps."""
    light = np.arange(_CURVE_STEPS) * (2 / _CURVE_STEPS)
    shown = np.clip((1 - np.exp(-1.6 * light)) / 0.86, 0, 1) ** (1 / 2.2)
    return np.asarray(np.round(shown * 255), dtype=np.uint8)


def crop(layer: Array) -> Array:
    """The part of a canvas layer that the photo shows."""
    return layer[MARGIN : MARGIN + HEIGHT, MARGIN : MARGIN + WIDTH]
