"""A product's good photos, from which its memory bank is built."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from console.api.needs import ConsoleNeeds, checked_code, known_product
from console.api.paging import Limit
from console.api.pictures import PictureDesk, answer, picture_response
from console.api.receiving import ReceivedFile, Result, keep_files, received_form
from pipeline.errors import RefusedError
from pipeline.ports import BlobStore

Sha256Path = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
_After = Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")]


def normal_key(product: str, sha256: str) -> str:
    """Return where a good photo lies."""
    return f"normals/{product}/{sha256}"


async def count_normals(store: BlobStore, product: str) -> int:
    """Return how many good photos a product has."""
    number = 0
    async for _ in store.list(f"normals/{product}/"):
        number += 1
    return number


def build_normals_router(needs: ConsoleNeeds, desk: PictureDesk) -> APIRouter:
    """Build the routes of good photos."""
    router = APIRouter(tags=["normals"])
    store = needs.store

    @router.post("/v1/products/{code}/normals", summary="Add good photos")
    async def add_normals(code: str, request: Request) -> dict[str, Any]:
        product = str((await known_product(needs.catalog, code))["product"])

        async with received_form(request) as form:
            told = await keep_files(needs, form, lambda file: _keep(needs, product, file))
        return {**told, "total": await count_normals(store, product)}

    @router.get("/v1/products/{code}/normals", summary="Its good photos, by name")
    async def list_normals(code: str, limit: Limit = 100, cursor: _After = None) -> dict[str, Any]:
        product = str((await known_product(needs.catalog, code))["product"])
        return await _page(store, product, limit, cursor)

    @router.get("/v1/products/{code}/normals/{sha256}", summary="One good photo")
    async def get_normal(
        code: str, sha256: Sha256Path, request: Request, *, thumbnail: bool = False
    ) -> Response:
        key = normal_key(checked_code(code), sha256)
        if thumbnail:
            return await answer(
                request, lambda: desk.thumbnail(sha256, key), "image/jpeg", etag=f"{sha256}-t"
            )
        data = await desk.original(sha256, key)
        facts = await asyncio.to_thread(needs.pictures.check, data)
        return picture_response(data, facts.content_type, etag=sha256)

    @router.delete("/v1/products/{code}/normals/{sha256}", status_code=204, summary="Remove it")
    async def delete_normal(code: str, sha256: Sha256Path) -> None:
        await store.delete(normal_key(checked_code(code), sha256))

    return router


async def _keep(
    needs: ConsoleNeeds, product: str, file: ReceivedFile
) -> tuple[Result, dict[str, Any]]:
    facts = await asyncio.to_thread(needs.pictures.check, file.data)
    key = normal_key(product, file.sha256)
    if await needs.store.stat(key) is not None:
        return "duplicate", {}
    await needs.store.put(key, file.data, content_type=facts.content_type)
    return "stored", {}


async def _page(store: BlobStore, product: str, limit: int, after: str | None) -> dict[str, Any]:
    """Return a page in key order; the whole folder is counted, which is what it is for."""
    rows: list[dict[str, Any]] = []
    total = 0
    async for stat in store.list(f"normals/{product}/"):
        total += 1
        sha256 = stat.key.rsplit("/", 1)[-1]
        if len(rows) <= limit and (after is None or sha256 > after):
            url = f"/v1/products/{product}/normals/{sha256}"
            rows.append({"sha256": sha256, "size_bytes": stat.size_bytes, "url": url})
    page = rows[:limit]
    next_cursor = page[-1]["sha256"] if len(rows) > limit else None
    return {"total": total, "normals": page, "next_cursor": next_cursor}


def no_normals(product: str) -> RefusedError:
    """Return what a bank's builder is told when there is nothing to build from."""
    detail = f"{product} has no good photos; send some to /v1/products/{product}/normals first"
    return RefusedError(422, "no_normals", detail)
