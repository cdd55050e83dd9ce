"""No answer of the web role may be taken for something else than it says."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter

from adapters.telemetry import PrometheusTelemetry
from app import web
from app.settings import Settings
from app.web import WebParts, build_web_app


@pytest.mark.parametrize(
    "path", ["/assets/page.js", "/v1/line", "/health", "/", "/v1/nothing", "/login?token=wrong"]
)
@pytest.mark.parametrize("tokens", [(), ("secret",)])
async def test_every_answer_forbids_guessing_its_type_once(
    path: str, tokens: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "page.js").write_text("1;", "utf-8")
    (tmp_path / "index.html").write_text("<!doctype html>", "utf-8")
    monkeypatch.setattr(web, "PAGES", tmp_path)
    router = APIRouter()
    router.add_api_route("/v1/line", lambda: {"waiting": 0})
    settings = Settings.model_validate({"web": {"tokens": tokens}})
    parts = WebParts([router], list, PrometheusTelemetry(), lambda: 0.0)
    transport = httpx.ASGITransport(build_web_app(settings, parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://line") as client:
        answer = await client.get(path)
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


@pytest.mark.parametrize(
    ("path", "accept", "status", "kind"),
    [
        ("/setup", "text/html", 200, "text/html"),
        ("/admin", "text/html,*/*;q=0.8", 404, "text/html"),
        ("/admin", "*/*", 404, "application/problem+json"),
        ("/icon.svg", "text/html", 200, "image/svg+xml"),
        ("/.env", "text/html", 404, "text/html"),
    ],
)
async def test_a_page_that_is_not_there_says_so_to_people_and_to_programs(
    path: str, accept: str, status: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>", "utf-8")
    (tmp_path / "icon.svg").write_text("<svg/>", "utf-8")
    (tmp_path / ".env").write_text("SECRET=1", "utf-8")
    monkeypatch.setattr(web, "PAGES", tmp_path)
    parts = WebParts([], list, PrometheusTelemetry(), lambda: 0.0)
    transport = httpx.ASGITransport(build_web_app(Settings(), parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://line") as client:
        answer = await client.get(path, headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (status, kind)
    assert "SECRET" not in answer.text
