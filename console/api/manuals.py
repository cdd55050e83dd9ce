"""Manuals: what reports are made from and cite."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import PurePath
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from console.api.needs import ConsoleNeeds, known_product
from console.api.paging import Cursor, Limit, offset_of, page_of
from console.api.pictures import inline_file
from console.api.receiving import ReceivedFile, Result, keep_files, parse_fields, received_form
from pipeline.claim_check import verified
from pipeline.errors import RefusedError
from pipeline.ports import Catalog
from schemas.configuration import ManualPublished

_TYPES = {
    ".pdf": "application/pdf",
    ".txt": "text/plain",
    ".text": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
}
# Text of Windows tools: two bytes a letter, so that half of them are NUL.
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# What makes two versions of one manual different.
_TOLD = ("sha256", "title", "language", "revision")
_Page = Annotated[int, Path(ge=1, le=100_000)]


class ManualFields(BaseModel):
    """Text fields sent with the files; the title is the file's name when left out."""

    title: str | None = Field(None, max_length=300)
    language: Literal["ko", "en"] | None = None
    revision: str | None = Field(None, max_length=100)


def build_manuals_router(needs: ConsoleNeeds) -> APIRouter:
    """Build the routes of manuals."""
    router = APIRouter(tags=["manuals"])
    catalog = needs.catalog

    @router.post("/v1/products/{code}/manuals", summary="Add manuals, or their next versions")
    async def add_manuals(code: str, request: Request) -> dict[str, Any]:
        product = str((await known_product(catalog, code))["product"])
        async with received_form(request) as form:
            fields = parse_fields(ManualFields, form)
            return await keep_files(needs, form, lambda file: _keep(needs, product, fields, file))

    @router.get("/v1/products/{code}/manuals", summary="Its manuals, newest first")
    async def list_manuals(code: str, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
        product = str((await known_product(catalog, code))["product"])
        offset = offset_of(cursor)
        rows = await catalog.rows("manuals", product, limit=limit + 1, offset=offset)
        return page_of("manuals", [_shown(row) for row in rows], offset=offset, limit=limit)

    @router.get("/v1/manuals/{manual_id}", summary="One manual")
    async def get_manual(manual_id: str) -> dict[str, Any]:
        return _shown(await _known(catalog, manual_id))

    @router.get("/v1/manuals/{manual_id}/file", summary="The file as it was sent")
    async def get_file(manual_id: str) -> Response:
        manual = await _known(catalog, manual_id)
        data = await _file(needs, manual)
        return inline_file(
            data, _served_as(manual["content_type"]), manual["file_name"], etag=manual["sha256"]
        )

    @router.get("/v1/manuals/{manual_id}/pages/{page}", summary="The text of one page")
    async def get_page(manual_id: str, page: _Page) -> dict[str, Any]:
        return await _page_text(needs, await _known(catalog, manual_id), page)

    @router.delete("/v1/manuals/{manual_id}", status_code=204, summary="Cite it no longer")
    async def delete_manual(manual_id: str) -> None:
        manual = ManualPublished.model_validate(await _known(catalog, manual_id))
        gone = {"event_id": uuid4(), "occurred_at": needs.clock.now(), "removed": True}
        await needs.outbox.append([manual.model_copy(update=gone)])

    return router


async def _keep(
    needs: ConsoleNeeds, product: str, fields: ManualFields, file: ReceivedFile
) -> tuple[Result, dict[str, Any]]:
    name = PurePath(file.name.replace("\\", "/")).name
    content_type = _check_manual(name, file.data)
    manual_id = hashlib.sha256(f"{product}\n{name}".encode()).hexdigest()[:32]
    manual = ManualPublished(
        event_id=uuid4(),
        occurred_at=needs.clock.now(),
        manual_id=manual_id,
        product=product,
        title=fields.title or PurePath(name).stem,
        file_name=name,
        language=fields.language,
        revision=fields.revision,
        content_type=content_type,
        key=f"manuals/{file.sha256}",
        sha256=file.sha256,
        size_bytes=len(file.data),
    )
    known = await needs.catalog.rows("manuals", row_id=manual_id, limit=1)
    told = manual.model_dump(mode="json", include=set(_TOLD))
    if known and {field: known[0][field] for field in _TOLD} == told:
        return "duplicate", {"manual_id": manual_id}
    await needs.store.put(manual.key, file.data, content_type=content_type)
    await needs.outbox.append([manual])
    return "stored", {"manual_id": manual_id}


def _check_manual(name: str, data: bytes) -> str:
    """Return the content type of a manual.

    Raises:
        RefusedError: 415 `empty_file`, `unsupported_manual` or `not_a_manual`.
    """
    content_type = _TYPES.get(PurePath(name).suffix.lower())
    if not data:
        raise RefusedError(415, "empty_file", "the file has 0 bytes; send it again when complete")
    if content_type is None:
        detail = "send manuals as .pdf, .txt or .md; export other documents as PDF"
        raise RefusedError(415, "unsupported_manual", detail)
    is_pdf = b"%PDF-" in data[:1024]
    is_text = data.startswith(_UTF16) or b"\x00" not in data
    if is_pdf != (content_type == "application/pdf") or not (is_pdf or is_text):
        detail = f"the bytes are not what the name {name} promises; export it anew"
        raise RefusedError(415, "not_a_manual", detail)
    return content_type


def _served_as(content_type: str) -> str:
    """Return a type that a browser shows and never runs."""
    return content_type if content_type == "application/pdf" else "text/plain; charset=utf-8"


async def _page_text(needs: ConsoleNeeds, manual: dict[str, Any], page: int) -> dict[str, Any]:
    if needs.read_pages is None:
        detail = f"page texts are not read here; open {_file_url(manual)}#page={page}"
        raise RefusedError(501, "no_page_text", detail)
    data = await _file(needs, manual)
    pages = await asyncio.to_thread(
        needs.read_pages, data, manual["file_name"], manual["content_type"]
    )
    last = max(pages, default=0)
    if page > last:
        raise RefusedError(404, "no_page", f"{manual['title']} has {last} pages")
    return {
        "manual_id": manual["manual_id"],
        "title": manual["title"],
        "page": page,
        "pages": last,
        "text": pages.get(page, ""),
    }


async def _file(needs: ConsoleNeeds, manual: dict[str, Any]) -> bytes:
    data = await needs.store.get(manual["key"], max_bytes=needs.max_bytes)
    return await verified(data, sha256=manual["sha256"], key=manual["key"])


def _file_url(manual: dict[str, Any]) -> str:
    return f"/v1/manuals/{manual['manual_id']}/file"


def _shown(manual: dict[str, Any]) -> dict[str, Any]:
    return {**manual, "file_url": _file_url(manual)}


async def _known(catalog: Catalog, manual_id: str) -> dict[str, Any]:
    rows = await catalog.rows("manuals", row_id=manual_id, limit=1)
    if not rows:
        detail = f"no manual {manual_id}; it may have been taken back"
        raise RefusedError(404, "unknown_manual", detail)
    return rows[0]
