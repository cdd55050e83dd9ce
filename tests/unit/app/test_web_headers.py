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
