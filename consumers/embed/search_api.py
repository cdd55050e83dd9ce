"""`POST /v1/search`: past cases like an image that is known, or like a file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from consumers.embed.cases import CaseIndexer, Workbench
from consumers.embed.index import CaseIndex, Match, Query
from consumers.embed.stage import as_neighbour
from pipeline.claim_check import fetch_verified
from pipeline.errors import PoisonError, RefusedError
from schemas.subject import ImageId, ProductCode, Subject

SubjectOf = Callable[[str], Awaitable[Subject | None]]


class SearchRequest(BaseModel):
    """What to look for; `product` defaults to the image's own, else all products are searched."""

    model_config = ConfigDict(extra="forbid")

    image_id: ImageId | None = None
    product: ProductCode | None = None
    defect_type: str | None = None
    k: Annotated[int, Field(ge=1, le=100)] = 5
    min_similarity: Annotated[float, Field(ge=-1, le=1)] = -1.0


class SearchRoutes:
    """The handlers; one object per app."""

    def __init__(
        self, bench: Workbench, index: CaseIndex, indexer: CaseIndexer, subject_of: SubjectOf
    ) -> None:
        """`subject_of` finds an image by its id, None where it is unknown."""
        self._bench = bench
        self._index = index
        self._indexer = indexer
        self._subject_of = subject_of

    async def search(self, request: Request) -> dict[str, Any]:
        """Answer with up to k cases, most similar first.

        Raises:
            RefusedError: 404 unknown image, 413, 415 no picture, 422 wrong fields, 503 not ready.
        """
        if self._indexer.not_ready():
            detail = "; ".join(self._indexer.not_ready())
            raise RefusedError(503, "index_not_ready", detail, retry_after_s=2)
        wanted, file = await _read(request)
        try:
            query = await self._query(wanted, file)
        except PoisonError as error:
            raise _refusal(error) from error
        matches, version = await asyncio.to_thread(self._index.search, query)
        return {
            "results": [_row(match) for match in matches],
            "model": self._bench.encoder.name,
            "index_version": version,
        }

    async def status(self) -> dict[str, Any]:
        """Say what the index holds, and how many changes a search does not see yet."""
        return {
            "ready": not self._indexer.not_ready(),
            "waiting": self._indexer.waiting(),
            "cases": self._index.counts(),
            "index_version": self._index.version(),
            "model": self._bench.encoder.name,
        }

    async def _query(self, wanted: SearchRequest, file: bytes | None) -> Query:
        subject, data = None, file
        if wanted.image_id is not None:
            subject = await self._subject_of(wanted.image_id)
            if subject is None:
                raise RefusedError(404, "image_not_found", f"no image {wanted.image_id}")
            bench = self._bench
            data = await fetch_verified(bench.objects, subject.image, max_bytes=bench.max_bytes)
        if data is None:
            raise RefusedError(422, "nothing_to_search", "send image_id, or a file")
        return Query(
            await self._bench.embed(data),
            product=wanted.product or (subject.product if subject else None),
            defect_type=wanted.defect_type,
            sha256=subject.image.sha256 if subject else None,
            image_id=wanted.image_id,
            part_id=subject.part_id if subject else None,
            k=wanted.k,
            min_similarity=wanted.min_similarity,
        )


def build_router(
    bench: Workbench, index: CaseIndex, indexer: CaseIndexer, subject_of: SubjectOf
) -> APIRouter:
    """Routes `POST /v1/search` and `GET /v1/search/status`."""
    routes = SearchRoutes(bench, index, indexer, subject_of)
    router = APIRouter(prefix="/v1/search", tags=["search"])
    router.add_api_route("", routes.search, methods=["POST"])
    router.add_api_route("/status", routes.status, methods=["GET"])
    return router


async def _read(request: Request) -> tuple[SearchRequest, bytes | None]:
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=8) as form:
            fields = {name: value for name, value in form.items() if value and name != "file"}
            upload = form.get("file")
            data = await upload.read() if isinstance(upload, UploadFile) else None
        return _checked(fields), data
    try:
        return _checked(await request.json()), None
    except ValueError as error:
        raise RefusedError(422, "not_json", f"the body is no JSON: {error}") from error


def _checked(fields: object) -> SearchRequest:
    try:
        return SearchRequest.model_validate(fields)
    except ValidationError as error:
        lines = (
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise RefusedError(422, "invalid_fields", "; ".join(lines)) from error


def _refusal(error: PoisonError) -> RefusedError:
    status = {"object_missing": 404, "object_too_large": 413, "image_too_large": 413}
    return RefusedError(status.get(error.reason, 415), error.reason, str(error))


def _row(match: Match) -> dict[str, Any]:
    row = as_neighbour(match).model_dump(mode="json")
    row["image_url"] = f"/v1/cases/{match.case.case_id}/image"
    return row
