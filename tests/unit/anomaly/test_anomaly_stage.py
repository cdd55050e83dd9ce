from __future__ import annotations

from typing import Any

import pytest

from consumers.anomaly.stage import AnomalyItem
from pipeline.errors import DependencyDownError, PoisonError
from pipeline.stage import Settled
from schemas.anomalies import ImageScored
from schemas.configuration import Policy
from schemas.images import ImageSkipped, ImageUploaded, InspectionRequested
from schemas.subject import Subject
from tests.anomaly_rig import AT, PRODUCT, Plant, cloth, ready_plant

GOOD, BAD = 500, 501
STAIN = (100, 70)


@pytest.fixture
async def plant() -> Plant:
    return await ready_plant()


def request(subject: Subject, **facts: Any) -> InspectionRequested:
    return InspectionRequested.model_validate(
        {
            "event_id": "6a4f54b4-9d37-4d4e-b2a4-4a2c1f6d8d01",
            "occurred_at": AT,
            "subject": subject,
            "stage": "anomaly",
            "requested_by": "operator",
            **facts,
        }
    )


async def settled(plant: Plant, event: ImageUploaded | InspectionRequested) -> Any:
    answer = await plant.stage.load(event)
    assert isinstance(answer, Settled)
    return answer.event


async def scored(plant: Plant, *events: ImageUploaded | InspectionRequested) -> list[ImageScored]:
    items = [await plant.stage.load(event) for event in events]
    ready = [item for item in items if isinstance(item, AnomalyItem)]
    assert len(ready) == len(items)
    results = plant.stage.infer(ready)
    return [
        await plant.stage.save(event, result) for event, result in zip(events, results, strict=True)
    ]


async def test_a_stained_part_is_rejected_where_the_stain_is(plant: Plant) -> None:
    good = await plant.upload(cloth(GOOD))
    bad = await plant.upload(cloth(BAD, stain=STAIN))
    fine, stained = await scored(plant, good, bad)
    assert fine.verdict == "OK"
    assert stained.verdict == "NG"
    assert (stained.percentile, stained.reason) == (100.0, "above_threshold")
    assert stained.score is not None
    assert fine.score is not None
    assert stained.score > fine.score
    region = stained.regions[0]
    assert region.x <= STAIN[0] <= region.x + region.width
    assert region.y <= STAIN[1] <= region.y + region.height


async def test_a_verdict_names_everything_that_it_rests_on(plant: Plant) -> None:
    (event,) = await scored(plant, await plant.upload(cloth(BAD, stain=STAIN)))
    (bank,) = plant.published.events.values()
    assert event.bank_version == getattr(bank, "version", None)
    assert event.model == plant.plan.model
    assert event.configuration_revision == 1
    assert event.threshold_source is not None
    assert "normals" in event.threshold_source
    assert event.nearest_normal is not None
    assert event.nearest_normal.image_key.startswith(f"normals/{PRODUCT}/")
    assert event.review_band is not None
    assert event.threshold is not None
    assert event.review_band[0] < event.threshold < event.review_band[1]
    assert event.heatmap_key == f"heatmaps/{event.event_id}.png"
    assert (await plant.store.get(event.heatmap_key)).startswith(b"\x89PNG")


async def test_equal_input_gives_equal_events_but_for_time(plant: Plant) -> None:
    upload = await plant.upload(cloth(BAD, stain=STAIN))
    (first,) = await scored(plant, upload)
    await plant.clock.advance(5.0)
    (second,) = await scored(plant, upload)
    volatile = {"occurred_at", "timings_ms"}
    assert first.model_dump(exclude=volatile) == second.model_dump(exclude=volatile)


async def test_a_threshold_set_by_hand_beats_the_banks(plant: Plant) -> None:
    upload = await plant.upload(cloth(BAD, stain=STAIN))
    (before,) = await scored(plant, upload)
    plant.configure(active_bank=before.bank_version, threshold=1e6, revision=4)
    (after,) = await scored(plant, upload)
    assert (after.verdict, after.threshold) == ("OK", 1e6)
    assert after.threshold_source == "set by hand, revision 4"
    assert after.configuration_revision == 4


async def test_images_of_one_batch_may_belong_to_different_banks(plant: Plant) -> None:
    upload = await plant.upload(cloth(GOOD))
    first = await plant.stage.load(upload)
    old = plant.products.events[PRODUCT]
    await plant.make_bank(normals=12)
    second = await plant.stage.load(upload)
    assert isinstance(first, AnomalyItem)
    assert isinstance(second, AnomalyItem)
    results = plant.stage.infer([first, second])
    events = [await plant.stage.save(upload, result) for result in results]
    assert events[0].bank_version == getattr(old, "active_bank", None)
    assert events[1].bank_version != events[0].bank_version


async def test_a_product_on_request_is_skipped_until_somebody_asks(plant: Plant) -> None:
    bank = getattr(plant.products.events[PRODUCT], "active_bank", None)
    plant.configure(active_bank=bank, policy=Policy(anomaly="on_request"), revision=2)
    upload = await plant.upload(cloth(GOOD))
    skipped = await settled(plant, upload)
    assert isinstance(skipped, ImageSkipped)
    assert (skipped.reason, skipped.configuration_revision) == ("policy", 2)
    (event,) = await scored(plant, request(upload.subject))
    assert event.verdict == "OK"


async def test_a_sender_may_force_or_skip_the_inspection(plant: Plant) -> None:
    bank = getattr(plant.products.events[PRODUCT], "active_bank", None)
    skipped = await settled(plant, await plant.upload(cloth(GOOD), anomaly="skip"))
    assert skipped.reason == "request"
    plant.configure(active_bank=bank, policy=Policy(anomaly="on_request"))
    (event,) = await scored(plant, await plant.upload(cloth(GOOD), anomaly="force"))
    assert event.verdict == "OK"


async def test_without_a_bank_an_image_ends_as_error_and_not_as_ok() -> None:
    plant = Plant()
    event = await settled(plant, await plant.upload(cloth(GOOD)))
    assert isinstance(event, ImageScored)
    assert (event.verdict, event.reason, event.score) == ("ERROR", "no_bank", None)


async def test_a_bank_that_was_never_published_ends_as_error(plant: Plant) -> None:
    plant.configure(active_bank="nowhere")
    event = await settled(plant, await plant.upload(cloth(GOOD)))
    assert (event.verdict, event.reason) == ("ERROR", "bank_unknown")
    assert event.bank_version == "nowhere"


async def test_an_unknown_product_is_poison(plant: Plant) -> None:
    plant.products.events.clear()
    with pytest.raises(PoisonError) as caught:
        await plant.stage.load(await plant.upload(cloth(GOOD)))
    assert caught.value.reason == "unknown_product"


async def test_other_bytes_than_the_event_names_are_poison(plant: Plant) -> None:
    upload = await plant.upload(cloth(GOOD))
    size = upload.subject.image.size_bytes
    plant.store.corrupt(upload.subject.image.key, b"x" * size)
    with pytest.raises(PoisonError) as caught:
        await plant.stage.load(upload)
    assert caught.value.reason == "sha256_mismatch"


async def test_a_store_that_is_away_is_no_fault_of_the_image(plant: Plant) -> None:
    upload = await plant.upload(cloth(GOOD))
    plant.store.away = True
    with pytest.raises(DependencyDownError):
        await plant.stage.load(upload)


async def test_a_request_for_another_stage_is_left_to_it(plant: Plant) -> None:
    upload = await plant.upload(cloth(GOOD))
    assert await settled(plant, request(upload.subject, stage="llm")) is None


async def test_a_wish_for_a_report_travels_on_with_the_verdict(plant: Plant) -> None:
    upload = await plant.upload(cloth(GOOD))
    (event,) = await scored(plant, request(upload.subject, explain=True))
    assert event.subject.requested.report == "force"
    assert event.subject.image_id == upload.subject.image_id
    (plain,) = await scored(plant, request(upload.subject))
    assert plain.subject.requested.report == "auto"
