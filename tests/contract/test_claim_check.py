"""What every stage that reads an object does when the object, or the store, is not as it was."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_asyncio

from pipeline.errors import DependencyDownError
from schemas.configuration import BankRequested
from schemas.topics import triggers_of
from tests.plant import PRODUCT, draw_part
from tests.stage_rig import NORMALS, Plant, event_id, running_plant, settle
from tests.unit.producers.test_image_check import cut_inside

pytestmark = pytest.mark.asyncio(loop_scope="module")

JUDGES = ("embed", "anomaly")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    async with running_plant(tmp_path_factory.mktemp("claims")) as plant:
        yield plant


@contextmanager
def objects_as(plant: Plant, key: str, data: bytes | None) -> Iterator[None]:
    """Let other bytes lie under a key, None for none, as long as the context lasts."""
    store: Any = plant.resources.objects
    place = (store.bucket, key)
    before = store._objects[place]
    if data is None:
        del store._objects[place]
    else:
        store.corrupt(key, data)
    try:
        yield
    finally:
        store._objects[place] = before


def equal_in_size(number: int, size: int) -> bytes:
    """Another valid picture of exactly so many bytes."""
    other = draw_part(number, defect=True, size=(160, 120))
    assert len(other) < size
    return other.ljust(size, b"\x00")


ALTERED: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "deleted": (lambda _: None, "object_missing"),
    "truncated": (lambda data: data[: len(data) // 2], "size_mismatch"),
    "one bit": (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "sha256_mismatch"),
    "swapped": (lambda data: equal_in_size(777, len(data)), "sha256_mismatch"),
    "empty": (lambda _: b"", "size_mismatch"),
}


@pytest.mark.parametrize("stage", JUDGES)
@pytest.mark.parametrize("kind", ALTERED)
async def test_wrong_bytes_under_the_key_never_get_an_answer(
    plant: Plant, stage: str, kind: str
) -> None:
    alter, reason = ALTERED[kind]
    victim, neighbour = await plant.upload(600), await plant.upload(601)
    key = victim.subject.image.key
    data = await plant.resources.objects.get(key)
    with objects_as(plant, key, alter(data)):
        told = await settle(plant.stages[stage], [victim, neighbour])
    assert told.buried == [reason]
    assert {out["subject"]["image_id"] for out in told.outputs.values()} == {
        neighbour.subject.image_id
    }


@pytest.mark.parametrize("stage", JUDGES)
async def test_pixels_that_an_end_mark_hides_the_lack_of_never_get_an_answer(
    plant: Plant, stage: str
) -> None:
    """A direct publisher's picture whose bytes are as named, and yet not all there."""
    whole = await plant.upload(602)
    image = await plant.stored("images", cut_inside(draw_part(602), 0.5))
    cut = whole.model_copy(update={"subject": whole.subject.model_copy(update={"image": image})})
    told = await settle(plant.stages[stage], [cut])
    assert (told.buried, told.outputs) == (["truncated_image"], {})


class Store:
    """The plant's store behind a fault that a test sets."""

    def __init__(self, store: Any, fault: Callable[[], Awaitable[None]]) -> None:
        self._store, self._fault = store, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get(self, key: str, **options: Any) -> bytes:
        await self._fault()
        data: bytes = await self._store.get(key, **options)
        return data


def busy(times: int) -> Callable[[], Awaitable[None]]:
    """Answer 503 so many times."""
    left = [times]

    async def fault() -> None:
        if left[0]:
            left[0] -= 1
            raise DependencyDownError("objects", "SlowDown: please reduce your request rate")

    return fault


async def slow() -> None:
    await asyncio.sleep(0.3)


@contextmanager
def store_of(stage: Any, fault: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Put the fault between a stage and its store."""
    parts = stage._parts
    holder, field = (parts.bench, "objects") if hasattr(parts, "bench") else (parts, "store")
    before = getattr(holder, field)
    object.__setattr__(holder, field, Store(before, fault))
    try:
        yield
    finally:
        object.__setattr__(holder, field, before)


async def delayed(plant: Plant, name: str, fault: Callable[[], Awaitable[None]]) -> None:
    """Let a stage work on a store with a fault; every event gets its answer all the same."""
    stage: Any = plant.stages[name]
    uploads = [await plant.upload(610 + number) for number in range(4)]
    is_bank = name == "bank-build"
    with store_of(stage, fault):
        told = await settle(stage, [_request("busy")] if is_bank else uploads)
    assert told.buried == []
    if is_bank:
        (published,) = told.outputs.values()
        assert published["normals"] == NORMALS
    else:
        assert {out["subject"]["image_id"] for out in told.outputs.values()} == {
            upload.subject.image_id for upload in uploads
        }


async def test_a_store_that_answers_503_five_times_delays_answers_and_buries_nothing(
    plant: Plant,
) -> None:
    # Side by side: the breaker's probes take eight seconds.
    await asyncio.gather(*(delayed(plant, name, busy(5)) for name in (*JUDGES, "bank-build")))


async def test_a_slow_store_delays_answers_and_buries_nothing(plant: Plant) -> None:
    await asyncio.gather(*(delayed(plant, name, slow) for name in (*JUDGES, "bank-build")))


def _request(name: str) -> BankRequested:
    upload = {"event_id": event_id(name), "occurred_at": "2026-03-02T08:00:00Z"}
    return BankRequested.model_validate(
        {**upload, "product": PRODUCT, "job_id": name, "requested_by": "test"}
    )


async def test_a_photo_swapped_under_its_name_goes_into_no_bank(plant: Plant) -> None:
    data = draw_part(900)
    key = f"normals/{PRODUCT}/{hashlib.sha256(data).hexdigest()}"
    await plant.stored(f"normals/{PRODUCT}", data)
    try:
        with objects_as(plant, key, equal_in_size(901, len(data))):
            told = await settle(plant.stages["bank-build"], [_request("swapped")])
        (published,) = told.outputs.values()
        assert published["normals"] == NORMALS
        manifest = json.loads(
            await plant.resources.objects.get(f"{published['prefix']}manifest.json")
        )
        left_out = manifest["notes"]["left_out"]
        assert left_out == [{"key": key, "reason": "sha256_mismatch"}]
    finally:
        await plant.resources.objects.delete(key)


async def test_every_stage_that_reads_objects_of_images_is_tested_here(plant: Plant) -> None:
    reading = {
        name for name in plant.stages if "images.uploaded" in triggers_of(name) and name != "record"
    }
    assert reading == set(JUDGES)
