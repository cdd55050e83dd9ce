from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from console.problems import install_problem_handlers
from pipeline.errors import DependencyDownError, RefusedError, StorageFullError
from producers.ingest import IngestLimits
from producers.upload_api import UploadGate, build_router
from tests.ingest_rig import IngestRig, picture

LIMIT = 100_000


@pytest.fixture
def rig() -> IngestRig:
    return IngestRig()


@pytest.fixture
async def client(rig: IngestRig) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(build_router(rig.ingest(IngestLimits(max_bytes=LIMIT))))
    install_problem_handlers(app)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://lineside") as client:
        yield client


async def post(
    client: httpx.AsyncClient, data: bytes | None = None, **fields: Any
) -> httpx.Response:
    key = fields.pop("key", None)
    body = {"product": "bearing", **fields}
    files = {} if data == b"" else {"file": ("a.png", data or picture(), "image/png")}
    headers = {"Idempotency-Key": key} if key else {}
    return await client.post("/v1/images", data=body, files=files or None, headers=headers)


async def test_an_upload_is_answered_with_202_and_where_to_look(client: httpx.AsyncClient) -> None:
    response = await post(client, part_id="부품-1", captured_at="2026-03-02T09:00:00.5+09:00")
    assert response.status_code == 202
    body = response.json()
    assert set(body) == {"image_id", "status_url", "duplicate", "duplicate_bytes"}
    assert response.headers["location"] == body["status_url"] == f"/v1/images/{body['image_id']}"


async def test_every_field_reaches_the_event(client: httpx.AsyncClient, rig: IngestRig) -> None:
    fields: dict[str, Any] = {
        name: f" {name}-1 " for name in ("source", "station", "line", "lot_id", "view")
    }
    await post(client, **fields, purpose="golden", anomaly="force", report="skip", part_id="")
    (row,) = rig.tables.accepted()
    subject = row.subject
    assert (subject.source, subject.station, subject.lot_id) == (
        "source-1",
        "station-1",
        "lot_id-1",
    )
    assert (subject.requested.anomaly, subject.requested.report) == ("force", "skip")
    assert subject.purpose == "golden"
    assert subject.part_id is None


async def test_a_retry_with_its_key_is_a_duplicate_and_another_key_another_image(
    client: httpx.AsyncClient,
) -> None:
    first = (await post(client, key="a")).json()
    again = (await post(client, key="a")).json()
    other = (await post(client, key="b")).json()
    assert again == {**first, "duplicate": True}
    assert other["image_id"] != first["image_id"]
    assert other["duplicate_bytes"]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"product": "a/b"}, "product"),
        ({"product": ""}, "product"),
        ({"captured_at": "yesterday"}, "captured_at"),
        ({"captured_at": "2026-03-02T09:00:00"}, "captured_at"),
        ({"anomaly": "maybe"}, "anomaly"),
        ({"purpose": "party"}, "purpose"),
        ({"part-id": "P-1"}, "part-id"),
        ({"source": "x" * 201}, "source"),
    ],
)
async def test_a_wrong_field_is_named(
    client: httpx.AsyncClient, fields: dict[str, Any], place: str
) -> None:
    response = await post(client, **fields)
    assert response.status_code == 422
    assert response.headers["content-type"].startswith("application/problem+json")
    assert place in response.text


@pytest.mark.parametrize(
    ("data", "status", "slug"),
    [
        (b"text", 415, "not_an_image"),
        (picture(kind="JPEG", side_px=64)[:-100], 422, "truncated_image"),
        (b"\xff" * (LIMIT + 1), 413, "file_too_large"),
        (b"\xff" * (3 * LIMIT), 413, "file_too_large"),
        (b"\xff" * (5 * LIMIT), 413, "file_too_large"),
    ],
)
async def test_a_file_that_cannot_be_taken_is_a_problem_with_its_own_name(
    client: httpx.AsyncClient, data: bytes, status: int, slug: str
) -> None:
    response = await post(client, data)
    assert response.status_code == status
    assert response.json()["type"].endswith(slug)


async def test_reading_stops_at_the_limit_and_not_at_the_end(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while sent < 200_000_000:
            sent += 100_000
            yield b"\xff" * 100_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = await client.post("/v1/images", content=endless(), headers=headers)
    assert response.status_code == 413
    assert sent < 40_000_000


async def test_a_body_that_is_no_form_or_no_whole_form_is_refused(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.post("/v1/images", json={"product": "bearing"})).status_code == 415
    assert (await post(client, b"")).status_code in (415, 422)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    cut = await client.post("/v1/images", content=head + picture(), headers=headers)
    assert cut.status_code == 422
    part = head + picture() + b"\r\n"
    twice = await client.post("/v1/images", content=part + part + b"--x--\r\n", headers=headers)
    assert twice.status_code == 422
    assert "twice" in twice.text
    garbage = await client.post("/v1/images", content=b"garbage", headers=headers)
    assert garbage.status_code == 422
    none = await client.post(
        "/v1/images", data={"product": "bearing"}, files={"other": ("a", b"b")}
    )
    assert none.status_code == 422


@pytest.mark.parametrize(
    ("error", "status"),
    [(DependencyDownError("objects"), 503), (StorageFullError("objects"), 507)],
)
async def test_an_outage_says_when_to_come_back(
    client: httpx.AsyncClient, rig: IngestRig, error: Exception, status: int
) -> None:
    rig.objects.fail("put", error)
    response = await post(client)
    assert response.status_code == status
    assert int(response.headers["retry-after"]) > 0
    assert (await post(client)).status_code == 202


def test_too_much_at_once_is_turned_away_and_one_alone_never() -> None:
    gate = UploadGate(max_requests=2, max_bytes=1000)
    with gate.admit(5000):
        with pytest.raises(RefusedError) as caught, gate.admit(1):
            pass
        assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
    with gate.admit(1), gate.admit(1), pytest.raises(RefusedError), gate.admit(1):
        pass
    with gate.admit(1000):
        pass
