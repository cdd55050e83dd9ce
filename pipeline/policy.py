"""Who decides whether a stage runs: request beats event beats product policy (interfaces.md 2)."""

from __future__ import annotations

from typing import Literal

from schemas.event import ImageEvent
from schemas.images import InspectionRequested

SkipReason = Literal["policy", "request", "not_applicable"]


def skip_reason(
    event: ImageEvent, *, wanted: Literal["auto", "force", "skip"], policy: str
) -> SkipReason | None:
    """Return why a stage does not run on this event, None when it runs.

    Args:
        event: what triggered the stage; a request always runs it.
        wanted: what the sender of the image asked of this stage.
        policy: the product's `auto` or `on_request`.
    """
    if isinstance(event, InspectionRequested) or wanted == "force":
        return None
    if wanted == "skip":
        return "request"
    return None if policy == "auto" else "policy"
