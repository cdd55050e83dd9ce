"""Where tokens are set, the page's own address answers strangers nothing but /health."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx
import pytest

from app.cli.status import _collect
from app.settings import KafkaSettings, Settings
from app.up import _not_ready

URL = "http://127.0.0.1:5000"
HEALTH_URL = "http://127.0.0.1:9100"


def answer(request: httpx.Request) -> httpx.Response:
    if str(request.url) == f"{HEALTH_URL}/ready":
        return httpx.Response(200, json={"ready": True, "reasons": []})
    if str(request.url) == f"{URL}/health":
        return httpx.Response(200, json={"status": "alive"})
    return httpx.Response(401, json={"status": 401, "detail": "a token is needed"})


def note(folder: Path) -> None:
    (folder / "roles").mkdir()
    (folder / "roles" / "web.json").write_text(json.dumps({"health_url": HEALTH_URL}), "utf-8")


async def test_up_finds_the_web_role_ready_without_a_token(tmp_path: Path) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        assert await _not_ready(client, tmp_path, URL, "web") == "no answer yet"
        note(tmp_path)
        assert await _not_ready(client, tmp_path, URL, "web") is None


async def test_up_waits_until_the_page_answers(tmp_path: Path) -> None:
    def closed(request: httpx.Request) -> httpx.Response:
        if str(request.url).startswith(URL):
            raise httpx.ConnectError("nobody listens")
        return answer(request)

    note(tmp_path)
    async with httpx.AsyncClient(transport=httpx.MockTransport(closed)) as client:
        assert await _not_ready(client, tmp_path, URL, "web") == "no answer yet"


async def test_status_finds_the_web_role_ready_without_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(tmp_path)
    (tmp_path / "web.json").write_text(json.dumps({"url": URL}), "utf-8")
    web = {"pid": os.getpid(), "restarts": 0}
    (tmp_path / "supervisor.json").write_text(json.dumps({"roles": {"web": web}}), "utf-8")
    transport = httpx.MockTransport(answer)
    open_client = httpx.AsyncClient
    monkeypatch.setattr(
        "app.cli.status.httpx.AsyncClient", lambda **_: open_client(transport=transport)
    )
    settings = Settings(state_dir=tmp_path, kafka=KafkaSettings())
    found = await _collect(settings)
    assert found["roles"]["web"]["ready"], found["roles"]["web"]["reasons"]
