"""Errors as RFC 9457 problem details: what happened, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pipeline.errors import (
    ConflictError,
    DependencyDownError,
    PoisonError,
    RefusedError,
    TransientError,
)

logger = logging.getLogger(__name__)

_RETRY_S = 2
_SLUGS = {404: "not_found", 405: "method_not_allowed", 401: "unauthorized", 403: "forbidden"}


def problem(
    status: int,
    slug: str,
    detail: str,
    *,
    retry_after_s: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """Return a problem answer; its `type` is path-only and stable, its `detail` for people."""
    body: dict[str, Any] = {
        "type": f"/problems/{slug}",
        "slug": slug,
        "title": slug.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        **(extra or {}),
    }
    headers = {"Cache-Control": "no-store"}
    if retry_after_s is not None:
        body["retry_after_s"] = retry_after_s
        headers["Retry-After"] = str(retry_after_s)
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def install_problem_handlers(app: FastAPI) -> None:
    """Turn every error of an app into problem details."""
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(ConflictError, _conflict)
    app.add_exception_handler(PoisonError, _poison)
    app.add_exception_handler(TransientError, _away)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return problem(error.status, error.slug, error.detail, retry_after_s=error.retry_after_s)


async def _conflict(_: Request, error: Exception) -> JSONResponse:
    return problem(409, "conflict", str(error))


async def _poison(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PoisonError)
    status = 404 if error.reason == "object_missing" else 422
    return problem(status, error.reason, str(error) or error.reason)


async def _away(_: Request, error: Exception) -> JSONResponse:
    away = error.dependency if isinstance(error, DependencyDownError) else "service"
    fields = {"action": "request_failed", "dependency": away, "reason": str(error)}
    logger.warning("a request failed because a dependency is away", extra=fields)
    detail = f"{away} is not available right now; nothing was changed, send it again"
    return problem(503, f"{away}_unavailable", detail, retry_after_s=_RETRY_S)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(str(part) for part in item["loc"]), "message": item["msg"]}
        for item in error.errors()
    ]
    detail = "some fields are missing or wrong; `errors` names each"
    return problem(422, "invalid_fields", detail, extra={"errors": errors})


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    slug = _SLUGS.get(error.status_code, "http_error")
    answer = problem(error.status_code, slug, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    fields = {"action": "request_crashed", "path": request.url.path}
    logger.error("a request met an unexpected error", extra=fields, exc_info=error)
    detail = "something unexpected happened here; the log names it. Nothing was promised"
    return problem(500, "internal_error", detail)
