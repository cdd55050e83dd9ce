"""Past cases: what the similarity search finds."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from console.api.case_files import case_id_of_file
from console.api.needs import ConsoleNeeds, known_product
from console.api.paging import Cursor, Limit, offset_of, page_of
from console.api.pictures import PictureDesk, answer
from console.api.receiving import ReceivedFile, Result, keep_files, parse_fields, received_form
from pipeline.errors import RefusedError
from pipeline.ports import Catalog
from schemas.configuration import CaseRegistered
from schemas.subject import ImageRef

# What makes two registrations of one picture different.
_TOLD = ("defect_type", "decision", "decided_at", "action_taken", "part_id")


class CaseFields(BaseModel):
    """Text fields sent with the files, the same for each; a time without a zone is the site's."""

    defect_type: str | None = Field(None, max_length=100)
    decision: Literal["ok", "ng"] = "ng"
    decided_at: datetime | None = None
    action_taken: str | None = Field(None, max_length=2000)
    part_id: str | None = Field(None, max_length=300)


def build_cases_router(needs: ConsoleNeeds, desk: PictureDesk) -> APIRouter:
    """Build the routes of cases."""
    router = APIRouter(tags=["cases"])
    catalog = needs.catalog

    @router.post("/v1/products/{code}/cases", summary="Add past cases")
    async def add_cases(code: str, request: Request) -> dict[str, Any]:
        product = str((await known_product(catalog, code))["product"])
        async with received_form(request) as form:
            fields = parse_fields(CaseFields, form)
            return await keep_files(needs, form, lambda file: _keep(needs, product, fields, file))

    @router.get("/v1/products/{code}/cases", summary="Its cases, newest first")
    async def list_cases(code: str, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
        product = str((await known_product(catalog, code))["product"])
        offset = offset_of(cursor)
        rows = await catalog.rows("cases", product, limit=limit + 1, offset=offset)
        return page_of("cases", [_shown(row) for row in rows], offset=offset, limit=limit)

    @router.get("/v1/cases/{case_id}", summary="One case")
    async def get_case(case_id: str) -> dict[str, Any]:
        return _shown(await _known(catalog, case_id))

    @router.get("/v1/cases/{case_id}/image", summary="Its picture")
    async def get_case_image(
        case_id: str, request: Request, *, thumbnail: bool = False
    ) -> Response:
        image = (await _known(catalog, case_id))["image"]
        sha256, key, bucket = image["sha256"], image["key"], image["bucket"]
        if thumbnail:
            return await answer(
                request,
                lambda: desk.thumbnail(sha256, key, bucket),
                "image/jpeg",
                etag=f"{sha256}-t",
            )
        return await answer(
            request,
            lambda: desk.original(sha256, key, bucket),
            image["content_type"],
            etag=sha256,
        )

    @router.delete("/v1/cases/{case_id}", status_code=204, summary="Take it out of the search")
    async def delete_case(case_id: str) -> None:
        case = CaseRegistered.model_validate(await _known(catalog, case_id))
        gone = {"event_id": uuid4(), "occurred_at": needs.clock.now(), "removed": True}
        await needs.outbox.append([case.model_copy(update=gone)])

    return router


async def _keep(
    needs: ConsoleNeeds, product: str, fields: CaseFields, file: ReceivedFile
) -> tuple[Result, dict[str, Any]]:
    facts = await asyncio.to_thread(needs.pictures.check, file.data)
    key = f"cases/{file.sha256}"
    case_id = case_id_of_file(product, file.sha256)
    decided_at = fields.decided_at
    if decided_at is not None and decided_at.tzinfo is None:
        decided_at = decided_at.replace(tzinfo=needs.site.zone)
    case = CaseRegistered(
        event_id=uuid4(),
        occurred_at=needs.clock.now(),
        case_id=case_id,
        product=product,
        image=ImageRef(
            bucket=needs.bucket,
            key=key,
            sha256=file.sha256,
            size_bytes=len(file.data),
            width=facts.width,
            height=facts.height,
            content_type=facts.content_type,
        ),
        **{**fields.model_dump(), "decided_at": decided_at},
    )
    known = await needs.catalog.rows("cases", row_id=case_id, limit=1)
    told = case.model_dump(mode="json", include=set(_TOLD))
    if known and {name: known[0][name] for name in _TOLD} == told:
        return "duplicate", {"case_id": case_id}
    await needs.store.put(key, file.data, content_type=facts.content_type)
    await needs.outbox.append([case])
    return "stored", {"case_id": case_id}


def _shown(case: dict[str, Any]) -> dict[str, Any]:
    return {**case, "image_url": f"/v1/cases/{case['case_id']}/image"}


async def _known(catalog: Catalog, case_id: str) -> dict[str, Any]:
    rows = await catalog.rows("cases", row_id=case_id, limit=1)
    if not rows:
        raise RefusedError(404, "unknown_case", f"no case {case_id}; it may have been taken back")
    return rows[0]
