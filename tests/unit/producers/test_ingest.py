from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pipeline.errors import DependencyDownError, RefusedError, StorageFullError
from producers.ingest import Capture, Ingest, IngestLimits
from schemas.event import uploaded_event_id
from schemas.images import ImageUploaded, InspectionRequested
from schemas.subject import image_id
from tests.ingest_rig import IngestRig, picture


@pytest.fixture
def rig() -> IngestRig:
    return IngestRig()


def only_upload(rig: IngestRig) -> ImageUploaded:
    (row,) = rig.tables.accepted()
    assert row.upload is not None
    return row.upload


async def test_an_accepted_image_is_stored_under_its_sha256_and_waits_in_the_outbox(
    rig: IngestRig,
) -> None:
    data = picture()
    accepted = await rig.ingest().accept(data, Capture(product="bearing", part_id="P-1"))
    digest = hashlib.sha256(data).hexdigest()
    assert rig.objects.keys() == [f"images/{digest}"]
    event = only_upload(rig)
    expected = image_id(product="bearing", sha256=digest, part_id="P-1")
    assert accepted == (expected, False, False)
    assert event.event_id == uploaded_event_id(expected)
    assert event.subject.image.size_bytes == len(data)
    assert (event.subject.image.width, event.subject.image.height) == (32, 32)
    assert event.subject.image.bucket == "memory"
    assert event.subject.time_quality == "server"
    (row,) = await rig.outbox.pending(10)
    assert row.message.topic == "images.uploaded"


async def test_the_same_request_again_is_a_duplicate_and_publishes_nothing_new(
    rig: IngestRig,
) -> None:
    capture = Capture(
        product="bearing", part_id="P-1", captured_at=datetime(2026, 3, 1, tzinfo=UTC)
    )
    first = await rig.ingest().accept(picture(), capture)
    again = await rig.ingest().accept(picture(), capture)
    assert again == (first.image_id, True, False)
    assert len(await rig.outbox.pending(10)) == 1


async def test_equal_bytes_of_another_part_are_another_image_and_are_flagged(
    rig: IngestRig,
) -> None:
    first = await rig.ingest().accept(picture(), Capture(product="bearing", part_id="P-1"))
    second = await rig.ingest().accept(picture(), Capture(product="bearing", part_id="P-2"))
    assert second.image_id != first.image_id
    assert (second.duplicate, second.duplicate_bytes) == (False, True)
    assert len(await rig.outbox.pending(10)) == 2


async def test_the_same_request_twice_at_once_is_one_image(rig: IngestRig) -> None:
    ingest, capture = rig.ingest(), Capture(product="bearing", part_id="P-1")
    answers = await asyncio.gather(*(ingest.accept(picture(), capture) for _ in range(5)))
    assert sorted(answer.duplicate for answer in answers) == [False, True, True, True, True]
    assert len({answer.image_id for answer in answers}) == 1
    assert len(await rig.outbox.pending(10)) == 1


async def test_force_on_a_duplicate_asks_for_a_new_inspection_of_the_known_image(
    rig: IngestRig,
) -> None:
    capture = Capture(product="bearing", part_id="P-1")
    await rig.ingest().accept(picture(), capture)
    original = only_upload(rig)
    await rig.clock.advance(60)
    forced = capture.model_copy(update={"anomaly": "force", "report": "force"})
    answer = await rig.ingest().accept(picture(), forced)
    assert answer.duplicate
    (row,) = rig.tables.accepted()
    (request,) = row.events.values()
    assert isinstance(request, InspectionRequested)
    assert (request.stage, request.explain) == ("anomaly", True)
    assert request.subject.received_at == original.subject.received_at


async def test_a_retry_of_a_forced_request_with_its_key_asks_once(rig: IngestRig) -> None:
    capture = Capture(product="bearing", report="force", idempotency_key="k-1")
    for _ in range(3):
        await rig.ingest().accept(picture(), capture)
    (row,) = rig.tables.accepted()
    (request,) = row.events.values()
    assert isinstance(request, InspectionRequested)
    assert (request.stage, request.explain) == ("llm", False)


async def test_an_unknown_product_is_refused_until_it_is_set_up(rig: IngestRig) -> None:
    ingest = rig.ingest()
    with pytest.raises(RefusedError, match="washer") as caught:
        await ingest.accept(picture(), Capture(product="washer"))
    assert (caught.value.status, caught.value.slug) == (422, "unknown_product")
    assert rig.objects.keys() == []
    rig.configure("washer")
    await ingest.accept(picture(), Capture(product="washer"))


async def test_a_removed_product_is_noticed_within_seconds(rig: IngestRig) -> None:
    ingest = rig.ingest()
    await ingest.accept(picture(1), Capture(product="bearing"))
    rig.configure("bearing", removed=True, revision=2)
    await rig.clock.advance(6)
    with pytest.raises(RefusedError):
        await ingest.accept(picture(2), Capture(product="bearing"))


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (DependencyDownError("objects", "away"), 503, "objects_away"),
        (StorageFullError("objects", "full"), 507, "storage_full"),
    ],
)
async def test_trouble_with_the_store_asks_the_sender_to_come_back_and_then_it_works(
    rig: IngestRig, error: Exception, status: int, slug: str
) -> None:
    capture = Capture(product="bearing", part_id="P-1")
    rig.objects.fail("put", error)
    with pytest.raises(RefusedError) as caught:
        await rig.ingest().accept(picture(), capture)
    assert (caught.value.status, caught.value.slug) == (status, slug)
    assert caught.value.retry_after_s
    assert await rig.outbox.pending(10) == []
    assert not (await rig.ingest().accept(picture(), capture)).duplicate
    assert len(await rig.outbox.pending(10)) == 1


async def test_a_large_image_takes_the_same_way(rig: IngestRig) -> None:
    data = picture(side_px=300, kind="BMP")
    assert len(data) > 200_000
    accepted = await rig.ingest().accept(data, Capture(product="bearing"))
    assert not accepted.duplicate
    with pytest.raises(RefusedError) as caught:
        await rig.ingest(IngestLimits(max_bytes=200_000)).accept(data, Capture(product="bearing"))
    assert caught.value.status == 413


async def test_every_acceptance_wakes_the_relay(rig: IngestRig) -> None:

    woken: list[bool] = []
    ports = replace(rig.ports(), wake=lambda: woken.append(True))
    await Ingest(ports).accept(picture(), Capture(product="bearing"))
    assert woken == [True]
