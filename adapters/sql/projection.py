"""What an event writes: rows of which tables. Pure; the web role and the record stage share it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any, Literal, NamedTuple

from pipeline.counting import slot_of
from pipeline.letters import answer_of, former_of, product_of
from pipeline.status import is_quiet
from schemas.anomalies import ImageScored
from schemas.configuration import (
    BankPublished,
    CaseRegistered,
    ManualPublished,
    ProductConfigured,
)
from schemas.dead_letters import DeadLetter
from schemas.event import Event, StageEvent
from schemas.images import ImageUploaded, InspectionRequested
from schemas.reports import ImageExplained
from schemas.reviews import ReviewRecorded
from schemas.subject import Subject

# Names of the statements that adapters/sql/statements.py prepares.
Name = Literal[
    "image",
    "upload",
    "inspection",
    "review",
    "dead_letter",
    "response",
    "model_parameters",
    "deployment",
    "product",
    "bank",
    "case",
    "manual",
]


class Write(NamedTuple):
    """One row for one prepared statement."""

    name: Name
    row: dict[str, Any]


def clean(text: str) -> str:
    """Replace NUL, which PostgreSQL cannot hold, by the replacement character."""
    return text.replace("\x00", "\ufffd")


def subject_of(event: Event) -> Subject | None:
    """Return the image that an event is about, None if it is about none."""
    subject = getattr(event, "subject", None)
    return subject if isinstance(subject, Subject) else None


def image_row(subject: Subject, *, state: str) -> dict[str, Any]:
    """Return the row of `images` that a subject describes."""
    received_at = subject.received_at
    row: dict[str, Any] = {
        "image_id": subject.image_id,
        "state": state,
        "captured_at": subject.captured_at,
        "received_at": received_at,
        "received_slot": slot_of(received_at),
        "purpose": subject.purpose,
        "is_quiet": is_quiet(subject),
        "sha256": subject.image.sha256,
        "subject": payload_of(subject),
        "label": None,
        "upload_event_id": None,
        "upload_at": None,
    }
    for name in ("product", "source", "station", "line", "part_id", "lot_id", "view"):
        value = getattr(subject, name)
        row[name] = None if value is None else clean(value)
    return row


def upload_row(event: ImageUploaded, *, state: str) -> dict[str, Any]:
    """Return the row of `images` that an upload makes."""
    return {
        **image_row(event.subject, state=state),
        "label": None if event.label is None else clean(event.label),
        "upload_event_id": str(event.event_id),
        "upload_at": event.occurred_at,
    }


def payload_of(model: Event | Subject) -> str:
    """Return the JSON that the wire carries; an escaped NUL is replaced as in `clean`."""
    text: str = model.__pydantic_serializer__.to_json(model).decode()
    return text.replace("\\u0000", "\\ufffd") if "\\u0000" in text else text


@singledispatch
def project(event: Event) -> Sequence[Write]:
    """Return the rows that an event writes, none for one that no table keeps."""
    del event
    return ()


@project.register
def _upload(event: ImageUploaded) -> Sequence[Write]:
    return (Write("upload", upload_row(event, state="accepted")),)


@project.register
def _stage(event: StageEvent) -> Sequence[Write]:
    scored = event if isinstance(event, ImageScored) else None
    return (
        Write("image", image_row(event.subject, state="accepted")),
        Write(
            "inspection",
            {
                **_inspection(event, event.subject.image_id, event.stage),
                "trigger_event_id": str(event.trigger_event_id),
                "origin_event_id": str(event.origin_event_id),
                "origin_at": event.origin_at,
                "verdict": scored and scored.verdict,
                "score": scored and scored.score,
                "bank_version": scored and scored.bank_version,
                "explain": False,
            },
        ),
    )


@project.register
def _explained(event: ImageExplained) -> Sequence[Write]:
    report = event.report
    response = {
        "event_id": str(event.event_id),
        "image_id": event.subject.image_id,
        "product": clean(event.subject.product),
        "occurred_at": event.occurred_at,
        "model": clean(event.model),
        "prompt_version": clean(report.prompt_version),
        "kind": report.kind,
        "language": report.language,
        "refused": event.refused,
    }
    return (*_stage(event), Write("response", response))


@project.register
def _request(event: InspectionRequested) -> Sequence[Write]:
    return (
        Write("image", image_row(event.subject, state="accepted")),
        Write(
            "inspection",
            {
                **_inspection(event, event.subject.image_id, event.stage),
                "trigger_event_id": None,
                "origin_event_id": None,
                "origin_at": None,
                "verdict": None,
                "score": None,
                "bank_version": None,
                "explain": event.explain,
            },
        ),
    )


def _inspection(event: Event, image_id: str, stage: str) -> dict[str, Any]:
    return {
        "event_id": str(event.event_id),
        "image_id": image_id,
        "type": event.type_name,
        "stage": stage,
        "occurred_at": event.occurred_at,
        "payload": payload_of(event),
    }


@project.register
def _review(event: ReviewRecorded) -> Sequence[Write]:
    row = {
        "event_id": str(event.event_id),
        "image_id": event.subject.image_id,
        "product": clean(event.subject.product),
        "occurred_at": event.occurred_at,
        "reviewer": clean(event.reviewer),
        "decision": event.decision,
        "defect_type": event.defect_type and clean(event.defect_type),
        "reason": event.reason and clean(event.reason),
        "machine_verdict": event.machine_verdict,
        "undoes": event.undoes and str(event.undoes),
        "acknowledges": event.acknowledges and str(event.acknowledges),
        "payload": payload_of(event),
    }
    return (Write("image", image_row(event.subject, state="accepted")), Write("review", row))


@project.register
def _dead_letter(event: DeadLetter) -> Sequence[Write]:
    origin_id = event.origin_event_id or event.trigger_event_id
    row = {
        "event_id": str(event.event_id),
        "image_id": event.subject.image_id if event.subject else None,
        "stage": event.stage,
        "occurred_at": event.occurred_at,
        "reason": clean(event.reason),
        "error_text": clean(event.error_text),
        "topic": event.origin.topic,
        "partition": event.origin.partition,
        "offset": event.origin.offset,
        "origin_event_id": origin_id and str(origin_id),
        "origin_at": event.origin_at or event.first_attempt_at,
        "product": (product := product_of(event)) and clean(product),
        "answer_id": answer_of(event),
        "replay_of": former_of(event),
        "payload": payload_of(event),
    }
    image = [Write("image", image_row(event.subject, state="accepted"))] if event.subject else []
    return (*image, Write("dead_letter", row))


@project.register
def _product(event: ProductConfigured) -> Sequence[Write]:
    revision = {
        "event_id": str(event.event_id),
        "product": event.product,
        "revision": event.revision,
        "occurred_at": event.occurred_at,
        "active_bank": event.active_bank,
        "threshold": event.threshold,
        "payload": payload_of(event),
    }
    deployment = {
        "event_id": str(event.event_id),
        "product": event.product,
        "bank_version": event.active_bank,
        "revision": event.revision,
        "deployed_at": event.occurred_at,
    }
    row = {
        **_state(event, event.product, removed=event.removed),
        "revision": event.revision,
        "active_bank": event.active_bank,
    }
    # The deployment is compared with the product's row, so it comes before that changes.
    deployed = [Write("deployment", deployment)] if event.active_bank else []
    return (Write("model_parameters", revision), *deployed, Write("product", row))


@project.register
def _bank(event: BankPublished) -> Sequence[Write]:
    row = _state(event, event.product, removed=event.removed)
    return (Write("bank", {**row, "version": clean(event.version)}),)


@project.register
def _case(event: CaseRegistered) -> Sequence[Write]:
    row = {
        **_state(event, event.product, removed=event.removed),
        "case_id": clean(event.case_id),
        "defect_type": event.defect_type and clean(event.defect_type),
        "decision": event.decision,
        "sha256": event.image.sha256,
    }
    return (Write("case", row),)


@project.register
def _manual(event: ManualPublished) -> Sequence[Write]:
    row = {
        **_state(event, event.product, removed=event.removed),
        "manual_id": clean(event.manual_id),
        "title": clean(event.title),
        "sha256": event.sha256,
    }
    return (Write("manual", row),)


def _state(event: Event, product: str, *, removed: bool) -> dict[str, Any]:
    return {
        "product": product,
        "event_id": str(event.event_id),
        "occurred_at": event.occurred_at,
        "removed": removed,
        "payload": payload_of(event),
    }
