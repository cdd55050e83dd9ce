from __future__ import annotations

import asyncio
from typing import Any

import httpx

from app.serving import HttpServer
from app.up import free_port


async def test_a_request_that_outlasts_the_server_is_told_to_come_again() -> None:
    """Found by the chaos bench: an upload that waited for a dead database was answered 500."""
    asked = asyncio.Event()

    async def never_done(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        await asyncio.get_running_loop().create_future()

    port = free_port()
    server = HttpServer("web", never_done, host="127.0.0.1", port=port, setting="PORT")
    serving = asyncio.create_task(server.run())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        asking = asyncio.create_task(_ask(http))
        await asyncio.wait_for(asked.wait(), 20)
        serving.cancel()
        answer = await asyncio.wait_for(asking, 20)
    await asyncio.gather(serving, return_exceptions=True)
    assert (answer.status_code, answer.json()["slug"]) == (503, "stopping")
    assert answer.headers["Retry-After"] == "1"


async def _ask(http: httpx.AsyncClient) -> httpx.Response:
    while True:
        try:
            return await http.post("/v1/images", timeout=20)
        except httpx.ConnectError:
            await asyncio.sleep(0.05)  # it is not listening yet
