"""A 2 by 8 wire-to-board connector with gilded pins, seen from above, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from app.samples import surface
from app.samples.surface import Array, Photo

DEFECTS = ("bent_pin", "missing_pin", "contamination")

_PITCH, _ROWS, _COLUMNS = 66.0, 2, 8
_BODY_X, _BODY_Y = 300.0, 118.0
_CAVITY, _PIN = 23.0, 9.0
_RISE_PX = 13.0  # how far a pin's tip stands out towards the picture's border, by perspective


@dataclass(frozen=True, slots=True)
class _Part:
    """What all bodies share: relief, outline, cavities and the metal shroud's feet."""

    height: Array
    outline: Array
    cavities: Array
    clips: Array


def _box(xs: Array, ys: Array, half: tuple[float, float], radius: float) -> Array:
    """Signed distance to a rounded rectangle, negative inside, in pixels."""
    qx, qy = np.abs(xs) - (half[0] - radius), np.abs(ys) - (half[1] - radius)
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    return np.asarray(outside + np.minimum(np.maximum(qx, qy), 0) - radius, dtype=np.float32)


def _seats() -> list[tuple[float, float]]:
    """Centres of the cavities, row by row, the origin at the centre."""
    return [
        ((column - (_COLUMNS - 1) / 2) * _PITCH, (row - 0.5) * (_PITCH + 10))
        for row in range(_ROWS)
        for column in range(_COLUMNS)
    ]


@cache
def _part() -> _Part:
    xs, ys = surface.grid()
    step = surface.smooth_step
    edge = _box(xs, ys, (_BODY_X, _BODY_Y), 16)
    latch = _box(xs, ys + _BODY_Y + 8, (74, 20), 7)
    key = _box(xs - 205, ys - _BODY_Y + 2, (26, 10), 3)
    outline = np.maximum(step(-edge, -0.7, 0.7), step(-latch, -0.7, 0.7))
    height = 14 * np.maximum(step(-edge, -1, 6), 0.7 * step(-latch, -1, 5))
    height -= 5 * step(-_box(xs, ys, (_BODY_X - 17, _BODY_Y - 17), 8), -2, 2)
    height -= 9 * step(-key, -2, 2)
    cavities = np.zeros_like(height)
    for x, y in _seats():
        near = _box(xs - x, ys - y, (_CAVITY, _CAVITY), 4)
        height -= 11 * step(-near, -4, 2)
        cavities = np.maximum(cavities, step(-near, -1.5, 1.5))
    clips = np.zeros_like(height)
    for side in (-1, 1):
        foot = _box(xs - side * (_BODY_X + 12), ys - 20, (24, 46), 5)
        clips = np.maximum(clips, step(-foot, -0.7, 0.7))
    clips = clips * (1 - outline)
    return _Part(height.astype(np.float32), outline, cavities, clips.astype(np.float32))


def draw(defect: str | None, seed: int) -> Photo:
    """Draw one connector, with one of `DEFECTS` or without."""
    rng = np.random.default_rng(seed)
    part, pose, light = _part(), surface.random_pose(rng), surface.random_light(rng)
    sx, sy = surface.slopes(part.height + surface.noise(rng, 2.4) * 0.16)
    sheen = surface.reflect(sx, sy, light, 0.3)
    plastic = 0.028 + 0.085 * sheen * sheen * (1 + 0.06 * surface.noise(rng, 30))
    plastic = plastic * (1 - 0.88 * part.cavities)
    colour: Array = plastic[..., None] * np.array([0.98, 1.0, 1.05], np.float32)
    tinned = surface.reflect(sx * 0.3, sy * 0.3 + 0.1, light, 0.2) * 0.6
    colour = surface.blend(colour, tinned[..., None] * np.ones(3, np.float32), part.clips)
    outline = np.maximum(part.outline, part.clips)
    scene = surface.blend(_mat(rng, outline), colour, outline)
    scene, mask = _fill(rng, scene, defect, light.strength)
    placed = pose.place(np.dstack([scene, mask]).astype(np.float32), 0.2)
    marked = surface.crop(placed[..., 3]) > 0.35
    return Photo(surface.expose(rng, placed[..., :3]), marked)


def _fill(
    rng: np.random.Generator, scene: Array, defect: str | None, strength: float
) -> tuple[Array, Array]:
    """Put the pins in, one of them wrongly, or dirt on top."""
    mask = np.zeros(surface.CANVAS, np.float32)
    wrong = int(rng.integers(_ROWS * _COLUMNS))
    for number, (x, y) in enumerate(_seats()):
        lean = rng.normal(0, 0.7, 2)
        if number == wrong and defect == "missing_pin":
            mask += _spot(x, y, 15)
            continue
        if number == wrong and defect == "bent_pin":
            heading = rng.uniform(0, 2 * np.pi)
            lean = np.array([np.cos(heading), np.sin(heading)]) * rng.uniform(14, 19)
        drawn = _pin(rng, scene, (x, y), (float(lean[0]), float(lean[1])), strength)
        if number == wrong and defect == "bent_pin":
            mask = np.maximum(mask, drawn)
    if defect == "contamination":
        return _dirt(rng, scene)
    return scene, mask


def _spot(x: float, y: float, radius: float) -> Array:
    xs, ys = surface.grid()
    return np.asarray((np.hypot(xs - x, ys - y) < radius), dtype=np.float32)


_TILE = 88  # side of the square that holds a pin, wherever it leans


def _polygon(points: NDArray[np.float64]) -> Array:
    """Anti-aliased filled polygon of tile coordinates, 0 to 1."""
    canvas = np.zeros((_TILE, _TILE), np.uint8)
    cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def _pin(
    rng: np.random.Generator,
    scene: Array,
    seat: tuple[float, float],
    lean: tuple[float, float],
    strength: float,
) -> Array:
    """Draw a square pin from its foot in the cavity to its tip; returns what it covers."""
    height, width = surface.CANVAS
    left, top = int(seat[0] + width / 2) - _TILE // 2, int(seat[1] + height / 2) - _TILE // 2
    foot_at = np.add(seat, (width / 2 - left, height / 2 - top))
    outwards = np.array(seat) / (_BODY_X, _BODY_Y) * (0.8 * _RISE_PX, 0.5 * _RISE_PX)
    tip_at = foot_at + lean + outwards
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float64)
    tip = tip_at + corners * _PIN
    body = np.concatenate([foot_at + corners * 7.0, tip]).astype(np.float32)
    side = _polygon(cv2.convexHull(body)[:, 0].astype(np.float64))
    gold = np.array([1.0, 0.74, 0.33], np.float32) * float(rng.normal(1, 0.03))
    faces = ((side, 0.20), (_polygon(tip), 0.46), (_polygon(tip_at + corners * 5.4), 0.95))
    window = (slice(top, top + _TILE), slice(left, left + _TILE))
    patch = scene[window]
    for coverage, level in faces:
        streak = 1 + 0.08 * rng.standard_normal((1, _TILE), dtype=np.float32)
        shade = np.float32(level * (0.5 + 0.5 * strength)) * streak
        patch = surface.blend(patch, shade[..., None] * gold, coverage)
    scene[window] = patch
    covered = np.zeros(surface.CANVAS, np.float32)
    covered[window] = side
    return covered


def _mat(rng: np.random.Generator, outline: Array) -> Array:
    """An ESD mat: blue-green, pebbled, with a soft shadow of the part."""
    xs, ys = surface.grid()
    level = 0.20 + 0.014 * surface.noise(rng, 2.6) + 0.006 * surface.noise(rng, 110)
    level = level * (1.12 - 0.0005 * (xs + ys))
    level = level * (1 - 0.62 * surface.shadow_of(outline, 16, 20, 12))
    return np.asarray(level[..., None] * np.array([0.42, 0.80, 0.86], np.float32))


def _dirt(rng: np.random.Generator, scene: Array) -> tuple[Array, Array]:
    """A fibre, a smear of flux, or a few grains, on the body or among the pins."""
    x = float(rng.uniform(-_BODY_X + 50, _BODY_X - 50))
    y = float(rng.uniform(-_BODY_Y + 30, _BODY_Y - 30))
    kind = int(rng.integers(3))
    layer = (_fibre, _flux, _grains)[kind](rng, x, y)
    colours = ((0.62, 0.60, 0.55), (0.46, 0.30, 0.10), (0.55, 0.50, 0.42))
    colour = np.array(colours[kind], np.float32) * (1 + 0.12 * surface.noise(rng, 4))[..., None]
    shade = surface.shadow_of(layer, 3, 4, 2.0)
    scene = scene * (1 - 0.5 * shade)[..., None]
    mask = cv2.dilate((layer > 0.3).astype(np.uint8), np.ones((3, 3), np.uint8))
    return surface.blend(scene, colour, layer * 0.9), mask.astype(np.float32)


def _fibre(rng: np.random.Generator, x: float, y: float) -> Array:
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.22, 34))
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * 2.8, axis=0)
    at = surface.to_fixed_point(path - path.mean(axis=0) + np.array([x, y]))
    canvas = np.zeros(surface.CANVAS, np.uint8)
    cv2.polylines(canvas, [at], False, 255, 3, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def _flux(rng: np.random.Generator, x: float, y: float) -> Array:
    xs, ys = surface.grid()
    blob = np.hypot((xs - x) / 1.5, ys - y) / float(rng.uniform(12, 17))
    blob += 0.22 * surface.noise(rng, 9)
    return np.asarray(0.8 * surface.smooth_step(-blob.astype(np.float32), -1.1, -0.8))


def _grains(rng: np.random.Generator, x: float, y: float) -> Array:
    canvas = np.zeros(surface.CANVAS, np.uint8)
    height, width = surface.CANVAS
    for _ in range(int(rng.integers(4, 8))):
        dx, dy = rng.normal(0, 13, 2)
        at = (round((x + dx + width / 2) * 16), round((y + dy + height / 2) * 16))
        axes = (round(rng.uniform(2.5, 6) * 16), round(rng.uniform(2, 4) * 16))
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(canvas, at, axes, turn, 0, 360, 255, -1, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255
