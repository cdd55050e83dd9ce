"""All of the console's HTTP, as one router for app/ to mount."""

from __future__ import annotations

from fastapi import APIRouter

from console.api.acts import build_acts_router
from console.api.banks import build_banks_router
from console.api.cases import build_cases_router
from console.api.images import build_images_router
from console.api.line import LineDesk, build_line_router
from console.api.manuals import build_manuals_router
from console.api.needs import ConsoleNeeds
from console.api.normals import build_normals_router
from console.api.numbers import build_numbers_router
from console.api.pictures import PictureDesk, build_pictures_router
from console.api.products import build_products_router
from console.api.search import SearchDesk, build_search_router
from pipeline.line import LineWatch


def build_router(needs: ConsoleNeeds, search: SearchDesk) -> APIRouter:
    """Return interfaces.md section 3 but for the upload, the feed, health and metrics."""
    desk = PictureDesk(needs.store, needs.pictures, max_bytes=needs.max_bytes)
    router = APIRouter()
    for part in (
        build_images_router(needs.inspections),
        build_pictures_router(needs, desk),
        build_acts_router(needs),
        build_search_router(search),
        build_products_router(needs),
        build_normals_router(needs, desk),
        build_cases_router(needs, desk),
        build_manuals_router(needs),
        build_banks_router(needs),
        build_numbers_router(needs),
        build_line_router(LineDesk(LineWatch(needs.arrivals), needs.clock)),
    ):
        router.include_router(part)
    return router
