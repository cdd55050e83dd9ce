from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from consumers.anomaly.bank_files import bank_prefix
from consumers.anomaly.fit import MIN_NORMALS, BuildItem
from pipeline.errors import DependencyDownError, PoisonError
from pipeline.stage import Settled
from schemas.configuration import BankPublished
from tests.anomaly_rig import PRODUCT, Plant, bank_requested, cloth, png


async def loaded(plant: Plant, job_id: str = "job-1") -> BuildItem:
    item = await plant.build.load(bank_requested(job_id))
    assert isinstance(item, BuildItem)
    return item


async def job(plant: Plant, job_id: str = "job-1") -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(await plant.store.get(f"jobs/{job_id}.json"))
    return shown


async def test_a_build_publishes_a_bank_that_can_be_read_back() -> None:
    plant = Plant()
    published = await plant.make_bank()
    assert published.normals == 8
    assert published.prefix == bank_prefix(PRODUCT, published.version)
    bank = await plant.library.open(PRODUCT, published.version)
    assert bank.calibration.threshold == published.threshold
    assert set(bank.owners.tolist()) <= set(range(8))
    assert await job(plant) == {
        "job_id": "job-1",
        "product": PRODUCT,
        "state": "done",
        "step": "done",
        "done": 8,
        "total": 8,
        "fraction": 1.0,
        "eta_s": 0.0,
        "version": published.version,
        "error": None,
    }


async def test_the_same_photos_give_the_same_version_and_one_more_gives_another() -> None:
    one, two, three = Plant(), Plant(), Plant()
    first, second = await one.make_bank(), await two.make_bank()
    third = await three.make_bank(normals=9)
    assert (first.version, first.sha256) == (second.version, second.sha256)
    assert third.version != first.version


async def test_a_redelivered_request_reuses_the_bank_that_is_there() -> None:
    plant = Plant()
    first = await plant.make_bank()
    before = list(plant.store.calls)
    again = await plant.build.infer(await loaded(plant))
    after = plant.store.calls[len(before) :]
    assert again.sha256 == first.sha256
    assert not any(op == "get" and key.startswith("normals/") for op, key in after)


async def test_a_damaged_bank_is_built_anew() -> None:
    plant = Plant()
    first = await plant.make_bank()
    plant.store.corrupt(f"{first.prefix}bank.safetensors", b"damaged")
    again = await plant.build.infer(await loaded(plant))
    assert again.sha256 == first.sha256


async def test_a_photo_that_cannot_be_read_is_left_out_and_noted() -> None:
    plant = Plant()
    await plant.store.put(f"normals/{PRODUCT}/bad", b"no picture", content_type="image/png")
    published = await plant.make_bank()
    assert published.normals == 8
    manifest = json.loads(await plant.store.get(f"{published.prefix}manifest.json"))
    assert manifest["notes"]["left_out"] == [
        {"key": f"normals/{PRODUCT}/bad", "reason": "not_an_image"}
    ]


async def test_a_defect_among_the_normals_has_the_highest_score_in_the_manifest() -> None:
    plant = Plant()
    key = f"normals/{PRODUCT}/stained"
    await plant.store.put(key, png(cloth(77, stain=(60, 60))), content_type="image/png")
    published = await plant.make_bank()
    manifest = json.loads(await plant.store.get(f"{published.prefix}manifest.json"))
    scores = manifest["notes"]["normal_scores"]
    assert max(scores, key=scores.__getitem__) == key


async def test_too_few_photos_are_refused_with_a_number() -> None:
    plant = Plant()
    await plant.put_normals(MIN_NORMALS - 1)
    with pytest.raises(PoisonError) as caught:
        await plant.build.load(bank_requested())
    assert caught.value.reason == "too_few_normals"
    shown = await job(plant)
    assert shown["state"] == "failed"
    assert "add at least 5" in shown["error"]


async def test_a_request_for_an_unknown_product_fails_its_job() -> None:
    plant = Plant()
    with pytest.raises(PoisonError) as caught:
        await plant.build.load(bank_requested(product="nobody"))
    assert caught.value.reason == "unknown_product"
    assert (await job(plant))["state"] == "failed"


async def test_another_event_is_not_meant_for_the_build() -> None:
    plant = Plant()
    assert await plant.build.load(await plant.upload(cloth(1))) == Settled(None)


async def test_a_cancelled_build_leaves_no_bank_and_a_waiting_job() -> None:
    plant = Plant()
    await plant.put_normals(8)
    item = await loaded(plant)
    task = asyncio.create_task(plant.build.infer(item))
    await plant.clock.run_until(lambda: ("get", item.keys[0]) in plant.store.calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stored = plant.store.keys()
    assert not [key for key in stored if key.startswith("banks/")]
    assert (await job(plant))["state"] == "queued"
    assert isinstance(await plant.build.infer(item), BankPublished)


async def test_a_store_that_goes_away_makes_the_job_wait_and_not_fail() -> None:
    plant = Plant()
    await plant.put_normals(8)
    item = await loaded(plant)
    plant.store.fail("put", DependencyDownError("objects", "away"), times=1)
    with pytest.raises(DependencyDownError):
        await plant.build.infer(item)
    assert isinstance(await plant.build.infer(item), BankPublished)
    plant.store.fail("get", DependencyDownError("objects", "away"), times=1)
    with pytest.raises(DependencyDownError):
        await plant.build.infer(item)
    assert (await job(plant))["state"] == "queued"
