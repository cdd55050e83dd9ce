"""`GET /v1/line`: silent cameras and late verdicts, for the page's banners."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from pipeline.line import LineWatch
from pipeline.ports import Clock
from schemas.subject import rfc3339_ms

# Every page asks every few seconds; the tables are asked once for all of them.
_KEPT_S = 2.0


class LineDesk:
    """Keeps the last answer for a moment."""

    def __init__(self, watch: LineWatch, clock: Clock) -> None:
        """Only assign."""
        self._watch = watch
        self._clock = clock
        self._turn = asyncio.Lock()
        self._answer: dict[str, Any] | None = None
        self._asked_s = 0.0

    async def answer(self) -> dict[str, Any]:
        """Return what the tables say, at most two seconds old."""
        async with self._turn:
            now_s = self._clock.monotonic()
            if self._answer is None or now_s - self._asked_s >= _KEPT_S:
                self._answer = await self._look()
                self._asked_s = now_s
            return self._answer

    async def _look(self) -> dict[str, Any]:
        now = self._clock.now()
        late = await self._watch.late(now)
        silent = await self._watch.silent(now)
        return {
            "now": rfc3339_ms(now),
            "late": late
            and {
                "image_id": late.image_id,
                "received_at": rfc3339_ms(late.received_at),
                "count": late.images,
                "has_more": late.has_more,
            },
            "silent": [
                {
                    "source": silence.source,
                    "last_at": rfc3339_ms(silence.last_at),
                    "expected_s": round(silence.expected_s, 1),
                }
                for silence in silent
            ],
        }


def build_line_router(desk: LineDesk) -> APIRouter:
    """Build the route."""
    router = APIRouter(tags=["numbers"])

    @router.get("/v1/line", summary="Silent cameras and late verdicts")
    async def line() -> dict[str, Any]:
        return await desk.answer()

    return router
