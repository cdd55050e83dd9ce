"""Events of one image, told in seconds since a fixed moment."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from schemas.anomalies import ImageScored
from schemas.configuration import CaseRegistered, ManualPublished, ProductConfigured
from schemas.dead_letters import DeadLetter, Origin
from schemas.embeddings import ImageEmbedded
from schemas.event import StageEvent, derived_event_id, origin_of, uploaded_event_id
from schemas.images import ImageSkipped, ImageUploaded, InspectionRequested
from schemas.reports import ImageExplained, Report
from schemas.reviews import ReviewRecorded
from schemas.subject import ImageRef, Subject, image_id

START = datetime(2026, 11, 23, 0, 0, tzinfo=UTC)

Trigger = ImageUploaded | InspectionRequested | StageEvent


def at(seconds: float) -> datetime:
    """Return the moment `seconds` after the start."""
    return START + timedelta(seconds=seconds)


class Story:
    """One image and what happens to it; nothing is stored anywhere."""

    def __init__(
        self,
        part_id: str = "P-1",
        *,
        received_s: float = 0,
        data: bytes | None = None,
        **subject: Any,
    ) -> None:
        sha256 = hashlib.sha256(part_id.encode() if data is None else data).hexdigest()
        product = subject.pop("product", "cap")
        self.subject = Subject(
            **{
                "image_id": image_id(product=product, sha256=sha256, part_id=part_id),
                "product": product,
                "part_id": part_id,
                "station": "S1",
                "captured_at": at(received_s),
                "received_at": at(received_s),
                "image": ImageRef(
                    bucket="lineside",
                    key=f"images/{sha256}",
                    sha256=sha256,
                    size_bytes=100 if data is None else len(data),
                    content_type="image/jpeg",
                ),
                **subject,
            }
        )
        self.image_id = self.subject.image_id
        self.uploaded = ImageUploaded(
            event_id=uploaded_event_id(self.image_id),
            occurred_at=at(received_s),
            subject=self.subject,
        )

    def requested(
        self, seconds: float, stage: Literal["anomaly", "llm"] = "anomaly", *, explain: bool = False
    ) -> InspectionRequested:
        return InspectionRequested(
            event_id=uuid4(),
            occurred_at=at(seconds),
            subject=self.subject,
            stage=stage,
            requested_by="kim",
            explain=explain,
        )

    def _stage(self, stage: str, trigger: Trigger) -> dict[str, Any]:
        return {
            "event_id": derived_event_id(stage, trigger.event_id),
            "occurred_at": at(1),
            "subject": self.subject,
            "stage": stage,
            "trigger_event_id": trigger.event_id,
            **origin_of(trigger),
        }

    def embedded(self, trigger: Trigger | None = None) -> ImageEmbedded:
        stage = self._stage("embed", trigger or self.uploaded)
        return ImageEmbedded(**stage, model="m", index_version="1")

    def scored(
        self, verdict: Literal["OK", "NG", "REVIEW", "ERROR"], trigger: Trigger | None = None
    ) -> ImageScored:
        stage = self._stage("anomaly", trigger or self.uploaded)
        return ImageScored(**stage, verdict=verdict, reason="score", score=2.0, threshold=1.0)

    def skipped(self, stage: str, trigger: Trigger | None = None) -> ImageSkipped:
        return ImageSkipped(**self._stage(stage, trigger or self.uploaded), reason="policy")

    def explained(self, trigger: Trigger) -> ImageExplained:
        report = Report(language="ko", model="m", prompt_version="1", index_version="1")
        stage = self._stage("llm", trigger)
        return ImageExplained(**stage, report=report, model="m", refused=False)

    def buried(self, stage: str, trigger: Trigger | None = None) -> DeadLetter:
        cause = trigger or self.uploaded
        return DeadLetter(
            event_id=derived_event_id(stage, cause.event_id, ":dead-letter"),
            occurred_at=at(1),
            stage=stage,
            origin=Origin(topic="images.uploaded", partition=0, offset=1),
            reason="corrupt_image",
            error_class="PoisonError",
            error_text="broken",
            attempts=1,
            first_attempt_at=at(1),
            last_attempt_at=at(1),
            subject=self.subject,
            trigger_event_id=cause.event_id,
            **origin_of(cause),
        )

    def reviewed(self, seconds: float, decision: Any = None, **fields: Any) -> ReviewRecorded:
        return ReviewRecorded(
            event_id=uuid4(),
            occurred_at=at(seconds),
            subject=self.subject,
            decision=decision,
            **{"reviewer": "kim", **fields},
        )


def configured(revision: int, product: str = "cap", **fields: Any) -> ProductConfigured:
    """A product's revision."""
    return ProductConfigured(
        event_id=uuid4(),
        occurred_at=at(revision),
        product=product,
        revision=revision,
        **{"display_name": "Cap", **fields},
    )


def registered(case_id: str, seconds: float, **fields: Any) -> CaseRegistered:
    """A past case."""
    image = ImageRef(bucket="lineside", key="cases/1", sha256="1" * 64, size_bytes=3)
    return CaseRegistered(
        event_id=uuid4(),
        occurred_at=at(seconds),
        case_id=case_id,
        image=image,
        **{"product": "cap", **fields},
    )


def manual(manual_id: str, seconds: float, **fields: Any) -> ManualPublished:
    """A manual."""
    return ManualPublished(
        event_id=uuid4(),
        occurred_at=at(seconds),
        manual_id=manual_id,
        title="Guide",
        file_name="guide.txt",
        content_type="text/plain",
        key="manuals/1",
        sha256="1" * 64,
        size_bytes=3,
        **{"product": "cap", **fields},
    )


def ids(events: Any) -> set[str]:
    """Event ids, as the views show them."""
    found = (getattr(e, "event_id", None) or UUID(e["event_id"]) for e in events)
    return {str(event_id) for event_id in found}
