"""Images as the tables know them: one, or pages of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import AwareDatetime, BaseModel, Field

from pipeline.errors import RefusedError
from pipeline.ports import ImageFilter, Inspections

ImageIdPath = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
_Text = Annotated[str | None, Field(max_length=300)]


class ImageQuery(BaseModel):
    """Query parameters of `GET /v1/images`; times need a zone and are those of receipt."""

    product: _Text = None
    verdict: Literal["OK", "NG", "REVIEW", "ERROR", "NOT_JUDGED"] | None = None
    status: Literal["pending", "complete", "failed"] | None = None
    source: _Text = None
    lot_id: _Text = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    unacknowledged: bool = False
    cursor: _Text = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


def build_images_router(inspections: Inspections) -> APIRouter:
    """Build the routes that read images."""
    router = APIRouter(tags=["images"])

    @router.get("/v1/images", summary="Pages of images, newest first")
    async def list_images(query: Annotated[ImageQuery, Query()]) -> dict[str, Any]:
        fields = query.model_dump(exclude={"cursor", "limit"})
        items, cursor = await inspections.list(
            ImageFilter(**fields), cursor=query.cursor, limit=query.limit
        )
        return {"images": list(items), "next_cursor": cursor}

    @router.get("/v1/images/{image_id}", summary="All that is known of an image")
    async def get_image(image_id: ImageIdPath) -> dict[str, Any]:
        return await known_image(inspections, image_id)

    return router


async def known_image(inspections: Inspections, image_id: str) -> dict[str, Any]:
    """Return an image's view.

    Raises:
        RefusedError: 404 `unknown_image`.
    """
    view = await inspections.get(image_id)
    if view is None:
        raise RefusedError(404, "unknown_image", f"no image {image_id} was accepted here")
    return view
