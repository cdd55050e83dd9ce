"""What people do with an image: ask for an inspection or a report, decide, acknowledge."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header
from pydantic import BaseModel, Field

from console.api.case_files import case_of_image, keep_case_file, withdrawn_case
from console.api.images import ImageIdPath, known_image
from console.api.needs import ConsoleNeeds, act_id
from pipeline.errors import RefusedError
from schemas.event import Event
from schemas.images import InspectionRequested
from schemas.reviews import Decision, ReviewRecorded
from schemas.subject import Subject

_Name = Annotated[str, Field(min_length=1, max_length=100)]
_Sentence = Annotated[str | None, Field(max_length=2000)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", max_length=300)]
# Who acts while nobody has to log in.
_SOMEBODY = "operator"


class AskBody(BaseModel):
    """Body of `inspect` and `explain`, which may be left out."""

    requested_by: _Name | None = None
    reason: _Sentence = None


class ReviewBody(BaseModel):
    """Body of `review`."""

    decision: Decision | None = None
    defect_type: Annotated[str | None, Field(max_length=100)] = None
    reviewer: Annotated[str | None, Field(max_length=100)] = None
    reason: _Sentence = None
    action_taken: _Sentence = None
    register_as_case: bool = False
    undoes: UUID | None = None
    not_similar: Annotated[str | None, Field(max_length=200)] = None


class AcknowledgeBody(BaseModel):
    """Body of `acknowledge`, which may be left out."""

    by: _Name | None = None


def build_acts_router(needs: ConsoleNeeds) -> APIRouter:
    """Build the routes by which people change where an image stands."""
    router = APIRouter(tags=["acts"])

    @router.post("/v1/images/{image_id}/inspect", status_code=202, summary="Judge it now")
    async def inspect(
        image_id: ImageIdPath, body: AskBody | None = None, key: IdempotencyKey = None
    ) -> dict[str, Any]:
        view = await known_image(needs.inspections, image_id)
        return await _ask(needs, view, "anomaly", body or AskBody(), key)

    @router.post("/v1/images/{image_id}/explain", status_code=202, summary="Write a report now")
    async def explain(
        image_id: ImageIdPath, body: AskBody | None = None, key: IdempotencyKey = None
    ) -> dict[str, Any]:
        view = await known_image(needs.inspections, image_id)
        return await _ask(needs, view, "llm", body or AskBody(), key)

    @router.post("/v1/images/{image_id}/review", status_code=201, summary="Decide, or undo")
    async def review(
        image_id: ImageIdPath, body: ReviewBody, key: IdempotencyKey = None
    ) -> dict[str, Any]:
        view = await known_image(needs.inspections, image_id)
        return await _review(needs, view, body, key)

    @router.post("/v1/images/{image_id}/acknowledge", summary="Seen: stop the alarm")
    async def acknowledge(
        image_id: ImageIdPath, body: AcknowledgeBody | None = None, key: IdempotencyKey = None
    ) -> dict[str, Any]:
        view = await known_image(needs.inspections, image_id)
        return await _acknowledge(needs, view, body or AcknowledgeBody(), key)

    return router


async def _ask(
    needs: ConsoleNeeds,
    view: dict[str, Any],
    wanted: Literal["anomaly", "llm"],
    body: AskBody,
    key: str | None,
) -> dict[str, Any]:
    image_id = view["image_id"]
    # A report needs a verdict: an image without one is scored first.
    stage = "anomaly" if wanted == "llm" and view["scored"] is None else wanted
    event = InspectionRequested(
        event_id=act_id(f"{wanted}:{image_id}", key),
        occurred_at=needs.clock.now(),
        subject=Subject.model_validate(view["subject"]),
        stage=stage,
        requested_by=body.requested_by or _SOMEBODY,
        reason=body.reason,
        explain=wanted == "llm",
    )
    (is_new,) = await needs.outbox.append([event])
    return {
        "event_id": str(event.event_id),
        "image_id": image_id,
        "stage": stage,
        "duplicate": not is_new,
        "status_url": f"/v1/images/{image_id}",
    }


async def _review(
    needs: ConsoleNeeds, view: dict[str, Any], body: ReviewBody, key: str | None
) -> dict[str, Any]:
    undone = _check_review(view, body)
    event = ReviewRecorded(
        event_id=act_id(f"review:{view['image_id']}", key),
        occurred_at=needs.clock.now(),
        subject=Subject.model_validate(view["subject"]),
        decision=body.decision,
        defect_type=body.defect_type,
        reviewer=body.reviewer or _SOMEBODY,
        reason=body.reason,
        action_taken=body.action_taken,
        machine_verdict=view["verdict"],
        register_as_case=body.register_as_case,
        undoes=body.undoes,
        # Taking such a remark back names its case too: it takes no decision back.
        not_similar=undone.get("not_similar") if undone else body.not_similar,
    )
    events: list[Event] = [event]
    case_id: str | None = None
    if body.register_as_case:
        reference = await keep_case_file(needs, event.subject.image)
        case = case_of_image(event, reference)
        events.append(case)
        case_id = case.case_id
    elif undone is not None and undone["register_as_case"]:
        gone = await withdrawn_case(needs, event)
        events += [gone] if gone else []
    is_new = await needs.outbox.append(events)
    return {
        "event_id": str(event.event_id),
        "image_id": view["image_id"],
        "duplicate": not is_new[0],
        "case_id": case_id,
        "machine_verdict": view["verdict"],
    }


def _check_review(view: dict[str, Any], body: ReviewBody) -> dict[str, Any] | None:
    """Refuse what may not be decided so; return the review that is undone."""
    if body.decision is None and body.undoes is None and body.not_similar is None:
        detail = "send `decision` (ok, ng, hold), `undoes` or `not_similar`"
        raise RefusedError(422, "nothing_decided", detail)
    _check_not_similar(view, body.not_similar)
    overrules = body.decision == "ok" and view["verdict"] == "NG"
    if overrules and not (_is_given(body.reviewer) and _is_given(body.reason)):
        detail = "to call an NG part OK, give `reviewer` and `reason`"
        raise RefusedError(422, "reason_required", detail)
    if body.register_as_case and body.decision not in {"ok", "ng"}:
        detail = "only a part decided ok or ng can become a case"
        raise RefusedError(422, "undecided_case", detail)
    if body.undoes is None:
        return None
    known = {review["event_id"]: review for review in view["reviews"]}
    undone: dict[str, Any] | None = known.get(str(body.undoes))
    if undone is None:
        raise RefusedError(422, "unknown_review", "`undoes` names no review of this image")
    return undone


def _check_not_similar(view: dict[str, Any], case_id: str | None) -> None:
    """A remark on a case that nobody was shown would mean nothing."""
    if case_id is None:
        return
    shown = (view["embedded"] or {}).get("neighbours", ())
    if case_id not in {neighbour["case_id"] for neighbour in shown}:
        detail = "`not_similar` names no case among the image's neighbours; load the image again"
        raise RefusedError(422, "unknown_case", detail)


def _is_given(text: str | None) -> bool:
    return bool(text and text.strip())


async def _acknowledge(
    needs: ConsoleNeeds, view: dict[str, Any], body: AcknowledgeBody, key: str | None
) -> dict[str, Any]:
    image_id, scored = view["image_id"], view["scored"]
    if scored is None:
        raise RefusedError(409, "not_scored", "the image has no verdict to acknowledge yet")
    event_id = act_id(f"acknowledge:{image_id}", key)
    seen = view["acknowledged"]
    is_new = False
    if seen is None:
        event = ReviewRecorded(
            event_id=event_id,
            occurred_at=needs.clock.now(),
            subject=Subject.model_validate(view["subject"]),
            reviewer=body.by or _SOMEBODY,
            machine_verdict=view["verdict"],
            acknowledges=UUID(scored["event_id"]),
        )
        (is_new,) = await needs.outbox.append([event])
        seen = (await known_image(needs.inspections, image_id))["acknowledged"]
    return {
        "event_id": seen["event_id"],
        "image_id": image_id,
        "duplicate": not is_new,
        "acknowledged": seen,
    }
