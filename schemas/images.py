"""An image came in; somebody asked for an inspection; a stage had no reason to look."""

from __future__ import annotations

from typing import Literal

from schemas.event import ImageEvent, StageEvent


class ImageUploaded(ImageEvent):
    """An image was accepted. `label` serves learning and benches; no stage may read it."""

    label: str | None = None


class InspectionRequested(ImageEvent):
    """Somebody asked a stage to run now; taken before the backlog.

    `explain` with stage `anomaly` asks for a report once the image has a verdict.
    """

    stage: Literal["anomaly", "llm"]
    requested_by: str
    reason: str | None = None
    explain: bool = False


class ImageSkipped(StageEvent):
    """A stage did not run on an image, and that is no error."""

    reason: Literal["policy", "request", "not_applicable"]
    configuration_revision: int | None = None
