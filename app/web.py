"""The web role's application: upload, feed, console and pages in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.telemetry import CONTENT_TYPE, PrometheusTelemetry
from app.settings import Settings
from console.problems import install_problem_handlers
from notifier.access import Access, AccessRules
from pipeline.errors import RefusedError

PAGES = Path(__file__).parents[1] / "console" / "web" / "dist"
# Everything comes from this server; pictures may be shown from memory before they are sent.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
        "connect-src 'self' ws: wss:; object-src 'none'; base-uri 'self'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
}
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_OLD_NAMES = {
    "/matching.html": "./",
    "/dashboard.html": "./admin",
    "/defect_analysis.html": "./analysis",
}


@dataclass(frozen=True, slots=True)
class WebParts:
    """What is mounted, in order, and who answers for readiness."""

    routers: Sequence[APIRouter]
    not_ready: Callable[[], Sequence[str]]
    telemetry: PrometheusTelemetry
    monotonic: Callable[[], float]


def build_web_app(settings: Settings, parts: WebParts) -> Any:
    """Return the ASGI application, access rules around it."""
    app = FastAPI(title="Lineside", docs_url=None, redoc_url=None)
    install_problem_handlers(app)
    for router in parts.routers:
        app.include_router(router)
    app.include_router(_life(parts))
    _add_pages(app)
    rules = AccessRules(
        tokens=tuple(token.get_secret_value() for token in settings.web.tokens),
        allowed_origins=settings.web.allowed_origins,
    )
    return Unsniffed(Access(app, rules, monotonic=parts.monotonic))


class Unsniffed:
    """ASGI middleware: no answer, be it JSON or a script, is taken for something else."""

    def __init__(self, app: ASGIApp) -> None:
        """Only assign."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the header where it is missing."""

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ())]
                if all(name != _NO_SNIFFING[0] for name, _ in headers):
                    headers.append(_NO_SNIFFING)
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_named if scope["type"] == "http" else send)


def _life(parts: WebParts) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    @router.get("/ready")
    async def ready() -> JSONResponse:
        reasons = list(parts.not_ready())
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(parts.telemetry.exposition(), media_type=CONTENT_TYPE)

    return router


def _add_pages(app: FastAPI) -> None:
    """Serve the pages; the page itself decides between its routes."""
    if (PAGES / "assets").is_dir():
        app.mount("/assets", StaticFiles(directory=PAGES / "assets"), name="assets")
    for path in ("/", "/setup", "/dead-letters", "/i/{image_id}"):
        app.add_api_route(path, _page, methods=["GET"], include_in_schema=False)
    for path, target in _OLD_NAMES.items():
        app.add_api_route(path, _redirect(target), methods=["GET"], include_in_schema=False)
    app.add_api_route("/{name}", _public_file, methods=["GET"], include_in_schema=False)


def _page() -> FileResponse:
    return _shell(200)


def _shell(status: int) -> FileResponse:
    index = PAGES / "index.html"
    if not index.is_file():
        raise RefusedError(503, "pages_not_built", "the pages are not built; run: make web")
    return FileResponse(index, status, headers={**_HEADERS, "Cache-Control": "no-cache"})


def _redirect(target: str) -> Callable[[], RedirectResponse]:
    return lambda: RedirectResponse(target, status_code=308)


def _public_file(name: str, request: Request) -> FileResponse:
    """Files beside the page, such as its icon; one path segment, so nothing above it."""
    path = PAGES / name
    if name.startswith(".") or not path.is_file():
        if "text/html" in request.headers.get("accept", ""):
            return _shell(404)  # a person reads it: the page says so in their language
        raise RefusedError(404, "not_found", f"there is no page /{name}")
    return FileResponse(path, headers=_HEADERS)
