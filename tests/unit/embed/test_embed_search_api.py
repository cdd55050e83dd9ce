from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from consumers.embed.search_api import build_router
from pipeline.errors import RefusedError


@pytest.fixture
async def searched(plant: Any) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    known = {}
    for data in (b"\x20", b"\x21"):
        upload = await plant.upload(data)
        known[upload.subject.image_id] = upload.subject

    async def subject_of(image_id: str) -> Any:
        return known.get(image_id)

    for number in range(8):
        kind = "dent" if number % 2 else "scratch"
        event = await plant.case(f"c{number}", bytes([number + 1]), defect_type=kind)
        await plant.indexer.note(event)
    app = FastAPI()
    app.include_router(build_router(plant.bench, plant.index, plant.indexer, subject_of))

    @app.exception_handler(RefusedError)
    async def problem(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"slug": error.slug, "detail": error.detail}, error.status)

    plant.known = list(known)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://plant") as client:
        yield plant, client


async def test_a_known_image_finds_the_cases_of_its_product(searched: Any) -> None:
    plant, client = searched
    async with plant.running():
        answer = await client.post("/v1/search", json={"image_id": plant.known[0], "k": 3})
    assert answer.status_code == 200
    body = answer.json()
    assert len(body["results"]) == 3
    first = body["results"][0]
    assert first["image_url"] == f"/v1/cases/{first['case_id']}/image"
    assert first["action_taken"] == "reworked"
    assert body["model"] == "fake:model"
    assert body["index_version"] == plant.index.version("housing")


async def test_a_file_is_searched_with_all_filters(searched: Any) -> None:
    plant, client = searched
    fields = {"product": "housing", "defect_type": "dent", "k": "10", "min_similarity": "-1"}
    async with plant.running():
        answer = await client.post("/v1/search", files={"file": ("a.jpg", b"\x30")}, data=fields)
        none = await client.post(
            "/v1/search", files={"file": ("a.jpg", b"\x30")}, data={"product": "nobody"}
        )
    results = answer.json()["results"]
    assert [row["defect_type"] for row in results] == ["dent"] * 4
    assert none.json()["results"] == []


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({}, 422, "nothing_to_search"),
        ({"image_id": "f" * 32}, 404, "image_not_found"),
        ({"image_id": "short"}, 422, "invalid_fields"),
        ({"image_id": "f" * 32, "k": 0}, 422, "invalid_fields"),
        ({"picture": "x"}, 422, "invalid_fields"),
        ([], 422, "invalid_fields"),
    ],
)
async def test_a_wrong_request_is_told_why(
    searched: Any, body: Any, status: int, slug: str
) -> None:
    plant, client = searched
    async with plant.running():
        answer = await client.post("/v1/search", json=body)
    assert (answer.status_code, answer.json()["slug"]) == (status, slug)


async def test_a_body_that_is_no_json_and_a_file_that_is_no_picture_are_refused(
    searched: Any,
) -> None:
    plant, client = searched
    async with plant.running():
        text = await client.post("/v1/search", content=b"\xff not json")
        file = await client.post("/v1/search", files={"file": ("a.jpg", b"bad")})
    assert (text.status_code, text.json()["slug"]) == (422, "not_json")
    assert (file.status_code, file.json()["slug"]) == (415, "corrupt_image")


async def test_until_the_index_is_whole_it_says_to_come_back(searched: Any) -> None:
    plant, client = searched
    answer = await client.post("/v1/search", json={"image_id": plant.known[0]})
    assert (answer.status_code, answer.json()["slug"]) == (503, "index_not_ready")
    status = await client.get("/v1/search/status")
    assert status.json()["ready"] is False
    assert status.json()["waiting"] == 8
