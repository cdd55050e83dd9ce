"""The pictures of images: original, thumbnail, heatmap, overlay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from console.api.images import ImageIdPath, known_image
from console.api.needs import ConsoleNeeds, Pictures
from pipeline.claim_check import verified
from pipeline.errors import RefusedError
from pipeline.ports import BlobStore

# Types a browser shows as a picture and never runs; anything else a publisher names is bytes.
_SHOWN = frozenset({"image/jpeg", "image/png", "image/bmp", "image/tiff", "image/webp"})
_FOREVER = "private, max-age=31536000, immutable"
_EventId = Annotated[str | None, Query(pattern=r"^[0-9a-f-]{36}$")]

# Decoding a picture of 100 megapixels takes a third of a gigabyte.
_AT_ONCE = 2


class PictureDesk:
    """Makes small pictures, a few at a time, and keeps thumbnails in the store."""

    def __init__(self, store: BlobStore, pictures: Pictures, *, max_bytes: int) -> None:
        """Only assign."""
        self._store = store
        self._pictures = pictures
        self._max_bytes = max_bytes
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def original(self, sha256: str, key: str, bucket: str | None = None) -> bytes:
        """Return the object at `key`, never other bytes than were stored there.

        Raises:
            PoisonError: the object is missing or was altered.
        """
        data = await self._store.get(key, bucket=bucket, max_bytes=self._max_bytes)
        return await verified(data, sha256=sha256, key=key)

    async def thumbnail(self, sha256: str, key: str, bucket: str | None = None) -> bytes:
        """Return the thumbnail of the object at `key`, made on first use.

        Raises:
            PoisonError: the object is missing, was altered, or is no picture.
        """
        kept = f"thumbnails/{sha256}.jpg"
        if await self._store.stat(kept) is not None:
            return await self._store.get(kept)
        data = await self.original(sha256, key, bucket)
        async with self._room:
            made = await asyncio.to_thread(self._pictures.thumbnail, data)
        await self._store.put(kept, made, content_type="image/jpeg")
        return made

    async def overlay(
        self, data: bytes, heatmap: bytes | None, outlines: list[list[tuple[int, int]]]
    ) -> bytes:
        """Return a JPEG of both."""
        async with self._room:
            return await asyncio.to_thread(
                lambda: self._pictures.overlay(data, heatmap, outlines=outlines)
            )


def picture_response(
    data: bytes, content_type: str | None, *, etag: str, is_fixed: bool = True
) -> Response:
    """Return a picture that a browser may keep; `is_fixed` when the address names its bytes."""
    shown = content_type if content_type in _SHOWN else "application/octet-stream"
    headers = {
        "ETag": f'"{etag}"',
        "Cache-Control": _FOREVER if is_fixed else "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Disposition": "inline",
    }
    return Response(data, media_type=shown, headers=headers)


def inline_file(data: bytes, content_type: str, file_name: str, *, etag: str) -> Response:
    """Return a document that a browser shows in place, under its own name."""
    headers = {
        "ETag": f'"{etag}"',
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(file_name)}",
    }
    return Response(data, media_type=content_type, headers=headers)


async def answer(
    request: Request,
    make: Callable[[], Awaitable[bytes]],
    content_type: str | None,
    *,
    etag: str,
    is_fixed: bool = True,
) -> Response:
    """Return the picture, made only if the browser does not have this version already."""
    if f'"{etag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": f'"{etag}"'})
    return picture_response(await make(), content_type, etag=etag, is_fixed=is_fixed)


def build_pictures_router(needs: ConsoleNeeds, desk: PictureDesk) -> APIRouter:
    """Build the routes of an image's pictures."""
    router = APIRouter(tags=["pictures"])
    inspections, store = needs.inspections, needs.store

    async def original(image: dict[str, Any]) -> bytes:
        return await desk.original(image["sha256"], image["key"], image["bucket"])

    @router.get("/v1/images/{image_id}/content", summary="The original bytes")
    async def content(image_id: ImageIdPath, request: Request) -> Response:
        image = (await known_image(inspections, image_id))["subject"]["image"]
        return await answer(
            request, lambda: original(image), image.get("content_type"), etag=image["sha256"]
        )

    @router.get("/v1/images/{image_id}/thumbnail", summary="A small JPEG")
    async def thumbnail(image_id: ImageIdPath, request: Request) -> Response:
        image = (await known_image(inspections, image_id))["subject"]["image"]
        sha256 = image["sha256"]
        return await answer(
            request,
            lambda: desk.thumbnail(sha256, image["key"], image["bucket"]),
            "image/jpeg",
            etag=f"{sha256}-t",
        )

    @router.get("/v1/images/{image_id}/heatmap", summary="RGBA PNG, clear where nothing is odd")
    async def heatmap(
        image_id: ImageIdPath, request: Request, event_id: _EventId = None
    ) -> Response:
        if event_id is None:
            scored = _verdict_of(await known_image(inspections, image_id), None)
            key, etag = scored["heatmap_key"], scored["event_id"]
        else:
            # The feed is faster than the tables: a page asks before the verdict is in them.
            key, etag = f"heatmaps/{event_id}.png", event_id
        return await answer(
            request, lambda: store.get(key), "image/png", etag=etag, is_fixed=event_id is not None
        )

    @router.get("/v1/images/{image_id}/overlay", summary="JPEG of picture, heatmap and regions")
    async def overlay(
        image_id: ImageIdPath, request: Request, event_id: _EventId = None
    ) -> Response:
        view = await known_image(inspections, image_id)
        scored = _verdict_of(view, event_id)

        async def make() -> bytes:
            picture = await original(view["subject"]["image"])
            heat = await store.get(scored["heatmap_key"])
            return await desk.overlay(picture, heat, _outlines(scored))

        etag = f"{scored['event_id']}-o"
        return await answer(request, make, "image/jpeg", etag=etag, is_fixed=event_id is not None)

    return router


def _outlines(scored: dict[str, Any]) -> list[list[tuple[int, int]]]:
    return [[(int(x), int(y)) for x, y in region["outline"]] for region in scored["regions"]]


def _verdict_of(view: dict[str, Any], event_id: str | None) -> dict[str, Any]:
    """Return the current verdict's event, or the one that was asked for, with its heatmap."""
    scored: dict[str, Any] | None = view["scored"]
    if event_id is not None and (scored is None or scored["event_id"] != event_id):
        older = (item["event"] for item in view["superseded"] if item["type"] == "ImageScored")
        scored = next((event for event in older if event["event_id"] == event_id), None)
    if scored is None:
        raise RefusedError(404, "not_scored", "no such verdict; the image may still wait for it")
    if not scored.get("heatmap_key"):
        raise RefusedError(404, "no_heatmap", "this verdict came without a heatmap")
    return scored
