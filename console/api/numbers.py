"""Counts from the tables, and facts about this installation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from console.api.needs import ConsoleNeeds
from schemas.subject import rfc3339_ms


def build_numbers_router(needs: ConsoleNeeds) -> APIRouter:
    """Build the routes of counts and of the site."""
    router = APIRouter(tags=["numbers"])
    site = needs.site

    @router.get("/v1/stats", summary="Counts by verdict, per lot and per time")
    async def stats(
        product: Annotated[str | None, Query(max_length=64)] = None,
        since: AwareDatetime | None = None,
        bucket: Literal["hour", "day"] | None = None,
    ) -> dict[str, Any]:
        return await needs.inspections.stats(product=product, since=since, bucket=bucket)

    @router.get("/v1/system", summary="What a page needs to know of this installation")
    async def system() -> dict[str, Any]:
        return {
            "version": site.version,
            "timezone": site.timezone,
            "language": site.language,
            "languages": ["ko", "en"],
            "llm": site.has_llm,
            "upload_limit_mb": site.upload_limit_mb,
            "now": rfc3339_ms(needs.clock.now()),
        }

    return router
