"""The verdict on an image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.event import StageEvent
from schemas.subject import WireModel

Verdict = Literal["OK", "NG", "REVIEW", "ERROR"]


class Region(WireModel):
    """A suspicious place, in original pixels after EXIF rotation.

    `outline` is the contour at the map threshold as [x, y] points, for drawing.
    """

    x: int
    y: int
    width: int
    height: int
    area_px: int
    score: float
    outline: tuple[tuple[int, int], ...] = ()


class NearestNormal(WireModel):
    """The good part that looks most like this one."""

    image_key: str
    distance: float


class HeatmapScale(WireModel):
    """Fixed per product, from its normals: below `low` transparent, at `high` the top colour."""

    low: float
    high: float
    cell_px: Annotated[float, Field(description="side of one map cell in original pixels")]


class ImageScored(StageEvent):
    """PatchCore's verdict; `score` and thresholds are Euclidean patch distances."""

    verdict: Verdict
    reason: str
    score: float | None = None
    threshold: float | None = None
    threshold_source: str | None = None
    map_threshold: float | None = None
    map_threshold_source: str | None = None
    review_band: tuple[float, float] | None = None
    percentile: Annotated[float, Field(ge=0, le=100, description="among the normals")] | None = None
    model: str | None = None
    bank_version: str | None = None
    configuration_revision: int | None = None
    heatmap_key: str | None = None
    heatmap_scale: HeatmapScale | None = None
    regions: tuple[Region, ...] = ()
    nearest_normal: NearestNormal | None = None
