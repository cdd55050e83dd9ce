"""A cast bearing housing with its bearing, seen from above, and what goes wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from app.samples import surface
from app.samples.surface import Array, Photo, Pose

DEFECTS = ("scratch", "dent", "burr")

_FLANGE_PX, _CORNER_PX = 236.0, 84.0
_BOLTS = tuple((x * 172.0, y * 172.0) for x in (-1, 1) for y in (-1, 1))
_BORE, _SEAT, _BOSS = 52.0, 122.0, 168.0
_WIDER = np.ones((5, 5), np.uint8)


@dataclass(frozen=True, slots=True)
class _Damage:
    """A defect as layers: relief in pixels, bare metal and darkness 0 to 1, and what it covers."""

    relief: Array
    bare: Array
    dark: Array
    mask: Array


@dataclass(frozen=True, slots=True)
class _Part:
    """What all housings share: relief, materials as 0 to 1 masks, and shading by cavities."""

    height: Array
    outline: Array
    turned: Array
    turning: Array
    steel: Array
    hole: Array
    cavity: Array


@cache
def _part() -> _Part:
    xs, ys = surface.grid()
    radius = np.hypot(xs, ys).astype(np.float32)
    qx, qy = np.abs(xs) - (_FLANGE_PX - _CORNER_PX), np.abs(ys) - (_FLANGE_PX - _CORNER_PX)
    corner = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    edge = (corner + np.minimum(np.maximum(qx, qy), 0) - _CORNER_PX).astype(np.float32)
    step = surface.smooth_step
    height = 16 * step(-edge, -1, 9)
    height += 11 * step(-radius, -_BOSS - 5, -_BOSS + 5)
    height -= 9 * step(-radius, -_SEAT - 2.5, -_SEAT + 2.5)
    for low, high, rise in ((101, 104, -3.5), (75, 78, 3.5)):  # the shield between the rings
        height += rise * step(-radius, -high, -low)
    height -= 18 * step(-radius, -_BORE - 3, -_BORE + 3)
    hole = step(-radius, -_BORE + 1, -_BORE + 4)
    turned, turning = step(-radius, -_BOSS - 4, -_BOSS + 1), radius
    for bx, by in _BOLTS:
        near = np.hypot(xs - bx, ys - by).astype(np.float32)
        height -= 5 * step(-near, -38, -34) + 14 * step(-near, -22, -19)
        hole = np.maximum(hole, step(-near, -20, -17))
        turned = np.maximum(turned, step(-near, -38, -35))
        turning = np.where(near < 39, near + 400, turning)
    height -= 3.0 * _engraving()
    deep = surface.shadow_of(height, 0, 0, 9) - height
    cavity = np.clip(1 - 0.055 * np.maximum(deep, 0), 0.35, 1).astype(np.float32)
    outline, steel = step(-edge, -0.7, 0.7), step(-radius, -_SEAT - 1, -_SEAT + 1)
    return _Part(height, outline, turned, turning.astype(np.float32), steel, hole, cavity)


def _engraving() -> Array:
    canvas = np.zeros(surface.CANVAS, np.uint8)
    height, width = surface.CANVAS
    for text, dx, dy in (("LS-204", -68, -192), ("AC4B", -40, 212)):
        place = (width // 2 + dx, height // 2 + dy)
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_DUPLEX, 1.0, 255, 2, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), 0.8))


def draw(defect: str | None, seed: int) -> Photo:
    """Draw one housing, with one of `DEFECTS` or without."""
    rng = np.random.default_rng(seed)
    part, pose, light = _part(), surface.random_pose(rng), surface.random_light(rng)
    damage = _DRAW[defect](rng) if defect else _intact()
    cast = surface.noise(rng, 2.6) * 0.20 + surface.noise(rng, 7.0) * 0.13
    lathe = surface.grooves(rng, part.turning, 1.3) * 0.07
    grain = cast * (1 - part.turned) + lathe * part.turned
    sx, sy = surface.slopes(part.height + damage.relief + grain)
    sx, sy, outline, turned = pose.place_all(sx, sy, part.outline, part.turned)
    steel, hole, shade, bright = pose.place_all(part.steel, part.hole, 1 - part.cavity, damage.bare)
    dull = surface.reflect(sx, sy, light, 0.55) * 0.36
    shiny = surface.reflect(sx, sy, light, 0.16) * _sheen(rng, pose)
    metal = dull + (shiny - dull) * turned
    metal *= (1 - shade) * (1 + 0.035 * surface.noise(rng, 60) + 0.02 * surface.noise(rng, 14))
    metal = metal + bright * (0.5 + 0.5 * light.strength - metal) * 0.8
    metal *= 1 - 0.7 * pose.place(damage.dark)
    colour = _tint(metal, steel)
    colour *= (1 - 0.93 * np.maximum(hole - bright, 0))[..., None]
    scene = surface.blend(_bench(rng, outline), colour, outline)
    marked = surface.crop(pose.place(damage.mask * part.outline)) > 0.35
    return Photo(surface.expose(rng, scene), marked)


def _sheen(rng: np.random.Generator, pose: Pose) -> Array:
    """Turned faces shine in two opposite fans, as concentric grooves do."""
    xs, ys = surface.grid()
    heading = float(rng.normal(0.9, 0.05))
    x, y = xs - np.float32(pose.dx), ys - np.float32(pose.dy)
    along = (x * np.float32(np.cos(heading)) + y * np.float32(np.sin(heading))) ** 2
    along /= x * x + y * y + 1  # squared cosine to the fans' axis
    fans = along * along
    return np.asarray(0.46 + 0.62 * fans * fans, dtype=np.float32)


def _tint(metal: Array, steel: Array) -> Array:
    aluminium = np.array([1.0, 0.985, 0.96], np.float32)
    bluish = np.array([0.80, 0.84, 0.90], np.float32)
    tint = aluminium + (bluish - aluminium) * steel[..., None]
    return np.asarray(metal[..., None] * tint, dtype=np.float32)


def _bench(rng: np.random.Generator, outline: Array) -> Array:
    rubber = 0.075 + 0.008 * surface.noise(rng, 2.0) + 0.006 * surface.noise(rng, 90)
    xs, ys = surface.grid()
    rubber = rubber * (1.15 - 0.0006 * (xs + ys))
    rubber = rubber * (1 - 0.7 * surface.shadow_of(outline, 14, 18, 13))
    return np.asarray(rubber[..., None] * np.array([0.86, 0.95, 1.05], np.float32))


def _stroke(points: Array, width_px: float) -> Array:
    """Anti-aliased line through canvas points (origin at the centre)."""
    at = surface.to_fixed_point(points)
    canvas = np.zeros(surface.CANVAS, np.uint8)
    thick = max(1, round(width_px))
    cv2.polylines(canvas, [at.reshape(-1, 1, 2)], False, 255, thick, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def _on_face(rng: np.random.Generator, clearance_px: float) -> tuple[float, float]:
    """A place on the flange or the boss, away from edges and holes."""
    while True:
        x, y = rng.uniform(-_FLANGE_PX + 25, _FLANGE_PX - 25, 2)
        radius = float(np.hypot(x, y))
        bolt = min(np.hypot(x - bx, y - by) for bx, by in _BOLTS)
        on_boss = _SEAT + clearance_px < radius < _BOSS - clearance_px
        on_flange = radius > _BOSS + clearance_px and bolt > 40 + clearance_px
        if on_boss or on_flange:
            return float(x), float(y)


def _intact() -> _Damage:
    nothing = np.zeros(surface.CANVAS, np.float32)
    return _Damage(nothing, nothing, nothing, nothing)


def _scratch(rng: np.random.Generator) -> _Damage:
    x, y = _on_face(rng, 14)
    length, heading = rng.uniform(60, 130), rng.uniform(0, np.pi)
    t = np.linspace(-0.5, 0.5, 24)
    bow = rng.normal(0, 9) * (4 * t * t - 0.5) + rng.normal(0, 0.5, 24).cumsum() * 0.5
    along = np.stack([t * length, bow], axis=1)
    turn = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
    points = (along @ turn + (x, y)).astype(np.float32)
    line = np.asarray(cv2.GaussianBlur(_stroke(points, rng.uniform(2, 4)), (0, 0), 0.7))
    fresh = line * np.clip(0.65 + 0.25 * surface.noise(rng, 9), 0.2, 1)
    return _Damage(-3.2 * line, fresh, np.zeros_like(fresh), _stroke(points, 5))


def _dent(rng: np.random.Generator) -> _Damage:
    x, y = _on_face(rng, 13)
    xs, ys = surface.grid()
    a, b, heading = rng.uniform(13, 19), rng.uniform(10, 16), rng.uniform(0, np.pi)
    u = (xs - x) * np.cos(heading) + (ys - y) * np.sin(heading)
    v = (ys - y) * np.cos(heading) - (xs - x) * np.sin(heading)
    distance = np.sqrt((u / a) ** 2 + (v / b) ** 2).astype(np.float32)
    distance += 0.05 * surface.noise(rng, 6)
    bowl = -float(rng.uniform(10, 14)) * np.exp(-(distance**2) * 1.8)
    rim = 2.4 * np.exp(-((distance - 1.15) ** 2) / 0.03)
    fresh = 0.3 * np.exp(-((distance - 1.0) ** 2) / 0.02)
    mask = (distance < 1.3).astype(np.float32)
    dark = 0.35 * np.exp(-(distance**2) * 2.5)
    return _Damage(bowl + rim, fresh, dark, mask)


def _burr(rng: np.random.Generator) -> _Damage:
    """A lip of torn metal that stands over the edge of a bore or a bolt hole."""
    rings = ((0.0, 0.0, _BOSS), (0.0, 0.0, _SEAT), *((x, y, 36.0) for x, y in _BOLTS))
    cx, cy, radius = rings[int(rng.integers(len(rings)))]
    length = rng.uniform(38, 66)
    middle, spread = rng.uniform(0, 2 * np.pi), min(length / radius, 2.2) / 2
    angles = np.linspace(middle - spread, middle + spread, 22)
    reach = rng.uniform(11, 17) * np.sin(np.linspace(0, np.pi, 22)) ** 0.6
    reach = reach * np.clip(1 + 0.35 * rng.standard_normal(22), 0.3, 1.7)
    outer, inner = radius + 0.35 * reach, radius - 0.8 * reach
    ring = np.concatenate([outer, inner[::-1]])
    both = np.concatenate([angles, angles[::-1]])
    points = np.stack([cx + ring * np.cos(both), cy + ring * np.sin(both)], axis=1)
    at = surface.to_fixed_point(points)
    canvas = np.zeros(surface.CANVAS, np.uint8)
    cv2.fillPoly(canvas, [at], 255, cv2.LINE_AA, 4)
    lip = canvas.astype(np.float32) / 255
    ragged = np.clip(0.75 + 0.3 * surface.noise(rng, 4), 0.15, 1)
    relief = 8 * cv2.GaussianBlur(lip, (0, 0), 1.2) * ragged
    mask = (cv2.dilate(lip, _WIDER) > 0.5).astype(np.float32)
    # torn metal stands off and throws a hard shadow
    gap = surface.shadow_of(np.asarray(cv2.dilate(lip, _WIDER)), 2, 3, 1.6)
    dark = np.clip(gap - 0.8 * lip * ragged, 0, 1)
    return _Damage(relief, lip * ragged * 0.9, dark, mask)


_DRAW = {"scratch": _scratch, "dent": _dent, "burr": _burr}
