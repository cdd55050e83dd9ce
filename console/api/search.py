"""`POST /v1/search`, passed on to the embed role, which holds the index."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import Response

from pipeline.errors import DependencyDownError, RefusedError
from pipeline.ports import Catalog

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_RETRY_S = 2
_NOTED = ("image_id", "product", "defect_type", "k", "min_similarity")


class SearchDesk:
    """Passes searches on and keeps a line of each."""

    def __init__(
        self, http: httpx.AsyncClient, url: str, catalog: Catalog, *, max_bytes: int
    ) -> None:
        """`url` is where the embed role listens (LINESIDE_SEARCH__URL); the client is the app's."""
        self._http = http
        self._url = f"{url.rstrip('/')}/v1/search"
        self._catalog = catalog
        self._max_bytes = max_bytes

    async def search(self, request: Request) -> Response:
        """Pass one search on.

        Raises:
            RefusedError: 413 `file_too_large`; 503 `search_unavailable`, the embed role is away.
        """
        body = await self._read(request)
        content_type = request.headers.get("content-type", "application/json")
        try:
            answer = await self._http.post(
                self._url,
                content=body,
                headers={"content-type": content_type},
                timeout=_TIMEOUT_S,
            )
        except httpx.TransportError as error:
            fields = {"action": "search_away", "reason": str(error)}
            logger.warning("the embed role does not answer searches", extra=fields)
            detail = "the similarity search is not available right now; it restarts by itself"
            raise RefusedError(503, "search_unavailable", detail, retry_after_s=_RETRY_S) from None
        if answer.is_success:
            await self._note(body if "json" in content_type else b"{}", answer.content)
        headers = {k: answer.headers[k] for k in ("retry-after",) if k in answer.headers}
        return Response(
            answer.content,
            answer.status_code,
            headers,
            media_type=answer.headers.get("content-type", "application/json"),
        )

    async def _read(self, request: Request) -> bytes:
        limit = self._max_bytes + 100_000
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                detail = f"at most {self._max_bytes} bytes; send a smaller picture"
                raise RefusedError(413, "file_too_large", detail)
            parts.append(part)
        return b"".join(parts)

    async def _note(self, question: bytes, answer: bytes) -> None:
        """Keep a line of history; a search never fails for it."""
        asked, told = _as_dict(question), _as_dict(answer)
        hits = told.get("results")
        entry = {name: asked[name] for name in _NOTED if asked.get(name) is not None}
        entry["by"] = "image" if "image_id" in entry else "file"
        entry["hits"] = len(hits) if isinstance(hits, list) else None
        try:
            await self._catalog.note_search(entry)
        except DependencyDownError as error:
            fields = {"action": "search_not_noted", "reason": str(error)}
            logger.warning("a search could not be noted", extra=fields)


def _as_dict(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def build_search_router(desk: SearchDesk) -> APIRouter:
    """Build the route of the search."""
    router = APIRouter(tags=["search"])

    @router.post("/v1/search", summary="Similar past cases")
    async def search(request: Request) -> Response:
        return await desk.search(request)

    return router
