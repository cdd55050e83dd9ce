"""Cases as events: from an image that somebody decided, or from a file."""

from __future__ import annotations

import hashlib

from console.api.needs import ConsoleNeeds
from pipeline.claim_check import fetch_verified
from schemas.configuration import CaseRegistered
from schemas.event import derived_event_id
from schemas.reviews import ReviewRecorded
from schemas.subject import ImageRef


def case_id_of_image(image_id: str) -> str:
    """Return the id of the case that an image becomes, the same however often it is decided."""
    return f"image-{image_id}"


def case_id_of_file(product: str, sha256: str) -> str:
    """Return the id of the case that a file becomes, the same however often it is sent."""
    return hashlib.sha256(f"{product}\n{sha256}".encode()).hexdigest()[:32]


async def keep_case_file(needs: ConsoleNeeds, image: ImageRef) -> ImageRef:
    """Copy an image's bytes to where cases lie for ever; returns the copy's reference."""
    key = f"cases/{image.sha256}"
    if await needs.store.stat(key) is None:
        data = await fetch_verified(needs.store, image, max_bytes=needs.max_bytes)
        content_type = image.content_type or "application/octet-stream"
        await needs.store.put(key, data, content_type=content_type)
    return image.model_copy(update={"bucket": needs.bucket, "key": key})


def case_of_image(review: ReviewRecorded, reference: ImageRef) -> CaseRegistered:
    """Return the case that a decision makes of its image."""
    return CaseRegistered(
        event_id=derived_event_id("case", review.event_id),
        occurred_at=review.occurred_at,
        case_id=case_id_of_image(review.subject.image_id),
        product=review.subject.product,
        image=reference,
        image_id=review.subject.image_id,
        part_id=review.subject.part_id,
        defect_type=review.defect_type,
        decision="ok" if review.decision == "ok" else "ng",
        decided_at=review.occurred_at,
        action_taken=review.action_taken,
    )


async def withdrawn_case(needs: ConsoleNeeds, undo: ReviewRecorded) -> CaseRegistered | None:
    """Return the removal of the image's case, None when there is none."""
    case_id = case_id_of_image(undo.subject.image_id)
    rows = await needs.catalog.rows("cases", row_id=case_id, limit=1)
    if not rows:
        return None
    case = CaseRegistered.model_validate(rows[0])
    return case.model_copy(
        update={
            "event_id": derived_event_id("case", undo.event_id),
            "occurred_at": undo.occurred_at,
            "removed": True,
        }
    )
