"""Similar past cases of an image."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.event import StageEvent
from schemas.subject import UtcDatetime, WireModel


class Neighbour(WireModel):
    """One past case. `similarity` is a cosine in [-1, 1]."""

    case_id: str
    image_key: str
    product: str
    defect_type: str | None = None
    similarity: Annotated[float, Field(ge=-1.0001, le=1.0001)]
    decision: str | None = None
    decided_at: UtcDatetime | None = None
    action_taken: str | None = None


class ImageEmbedded(StageEvent):
    """The image's nearest past cases, most similar first; the image itself is never among them."""

    model: str
    index_version: str
    neighbours: tuple[Neighbour, ...] = ()
    voted_defect_type: str | None = None
    voted_confidence: Annotated[float, Field(ge=0, le=1)] | None = None
