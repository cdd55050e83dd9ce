"""The camera of the benches: it sends what a form sends, and notices when it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from fastapi import FastAPI, Form, HTTPException, UploadFile

from app.bench.camera import Camera
from app.serving import HttpServer
from app.up import free_port

taken: list[tuple[str, bytes]] = []
app = FastAPI()


@app.post("/v1/images")
async def upload(part_id: Annotated[str, Form()], file: UploadFile) -> dict[str, str]:
    if part_id == "bad":
        raise HTTPException(422, "no such product")
    taken.append((part_id, await file.read()))
    return {}


@asynccontextmanager
async def serving(port: int) -> AsyncIterator[None]:
    task = asyncio.create_task(
        HttpServer("web", app, host="127.0.0.1", port=port, setting="PORT").run()
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def connected(camera: Camera) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                return await camera.ready()
            except OSError:
                await asyncio.sleep(0.02)  # it is not listening yet


async def test_it_sends_a_form_again_and_again_and_over_a_server_s_restart() -> None:
    taken.clear()
    port = free_port()
    async with Camera(f"http://127.0.0.1:{port}") as camera:
        for life in range(2):
            async with serving(port):
                for number in range(2):
                    part = f"{life}-{number}"
                    request = camera.prepare(
                        "/v1/images", {"part_id": part}, b"\xff\xd8" + bytes(9)
                    )
                    await connected(camera)
                    await camera.send(request)
    assert taken == [(part, b"\xff\xd8" + bytes(9)) for part in ("0-0", "0-1", "1-0", "1-1")]


async def test_a_refusal_is_an_error_that_quotes_the_answer() -> None:
    port = free_port()
    async with serving(port), Camera(f"http://127.0.0.1:{port}") as camera:
        await connected(camera)
        with pytest.raises(RuntimeError, match=r"422.*no such product"):
            await camera.send(camera.prepare("/v1/images", {"part_id": "bad"}, b""))
