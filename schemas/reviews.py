"""What a person decided."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from schemas.event import ImageEvent

Decision = Literal["ok", "ng", "hold"]


class ReviewRecorded(ImageEvent):
    """A decision beside the machine's verdict, which it never overwrites.

    `undoes` names the review that this one takes back; nothing is deleted. `acknowledges` names
    the verdict (its event_id) that the reviewer has seen; `not_similar` names a past case
    (its case_id) that the reviewer found unlike this image. Such acts need not decide anything.
    """

    decision: Decision | None = None
    defect_type: str | None = None
    reviewer: str
    reason: str | None = None
    action_taken: str | None = None
    machine_verdict: str | None = None
    register_as_case: bool = False
    undoes: UUID | None = None
    acknowledges: UUID | None = None
    not_similar: str | None = None
