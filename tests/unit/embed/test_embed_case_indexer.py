from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from consumers.embed.cases import pack, unpack
from consumers.embed.index import Case, Query
from consumers.embed.likeness import Embedding
from pipeline.errors import DependencyDownError


async def test_it_is_ready_only_when_every_known_case_can_be_found(plant: Any) -> None:
    for number in range(20):
        await plant.indexer.note(await plant.case(f"c{number}", bytes([number + 1])))
    async with plant.running(caught_up=False):
        await plant.until(lambda: plant.index.counts() == {"housing": 20})
        assert plant.indexer.not_ready()  # the log may hold more
        plant.log.caught_up.set()
        await plant.until(lambda: not plant.indexer.not_ready())
        await plant.indexer.wait_ready()


async def test_a_case_registered_later_is_found_and_leaves_it_ready(plant: Any) -> None:
    async with plant.running():
        await plant.indexer.note(await plant.case("late", b"\x07"))
        assert not plant.indexer.not_ready()
        await plant.until(lambda: plant.index.counts() == {"housing": 1})
        await plant.until(lambda: plant.indexer.waiting() == 0)


async def test_the_newest_word_on_a_case_counts(plant: Any) -> None:
    async with plant.running():
        await plant.indexer.note(await plant.case("c", b"\x01", defect_type="scratch"))
        await plant.indexer.note(await plant.case("c", b"\x01", defect_type="dent"))
        await plant.until(lambda: plant.indexer.waiting() == 0)
        (entry,) = plant.index.entries()
        assert entry[0].defect_type == "dent"
        await plant.indexer.note(await plant.case("c", b"\x01", removed=True))
        await plant.until(lambda: plant.index.counts() == {})


async def test_a_case_without_a_usable_picture_hides_no_other(plant: Any) -> None:
    missing = await plant.case("missing", b"\x02")
    await plant.objects.delete(missing.image.key)
    altered = await plant.case("altered", b"\x03")
    plant.objects.corrupt(altered.image.key, b"\x04")
    for event in (missing, altered, await plant.case("broken", b"bad")):
        await plant.indexer.note(event)
    await plant.indexer.note(await plant.case("good", b"\x05"))
    async with plant.running():
        assert [case.case_id for case, _ in plant.index.entries()] == ["good"]


async def test_an_outage_of_the_store_only_delays(plant: Any) -> None:
    await plant.indexer.note(await plant.case("c", b"\x05"))
    plant.objects.fail("get", DependencyDownError("objects", "away"))
    async with plant.running():
        assert plant.index.counts() == {"housing": 1}


async def test_after_a_restart_a_snapshot_saves_all_embedding(plant: Any) -> None:
    events = [await plant.case(f"c{number}", bytes([number + 1])) for number in range(12)]
    for event in events:
        await plant.indexer.note(event)
    async with plant.running():
        await plant.until(lambda: bool(plant.snapshots()))
        before = plant.index.version("housing")
    plant.restart()
    plant.encoder.embedded = 0
    for event in events:
        await plant.indexer.note(event)
    async with plant.running():
        assert plant.encoder.embedded == 0
        assert plant.index.version("housing") == before


async def test_a_snapshot_brings_no_removed_case_back(plant: Any) -> None:
    event = await plant.case("c", b"\x01")
    await plant.indexer.note(event)
    async with plant.running():
        await plant.until(lambda: bool(plant.snapshots()))
    plant.restart()
    await plant.indexer.note(event.model_copy(update={"removed": True}))
    async with plant.running():
        assert plant.index.counts() == {}


async def test_a_damaged_snapshot_costs_only_time(plant: Any) -> None:
    folder = f"snapshots/{plant.encoder.namespace}/"
    plant.objects.corrupt(f"{folder}{7:020}", b"PK\x03\x04 nonsense")
    await plant.indexer.note(await plant.case("c", b"\x01"))
    async with plant.running():
        assert plant.index.counts() == {"housing": 1}
        await plant.until(lambda: f"{folder}{8:020}" in plant.snapshots())


async def test_vectors_of_another_model_are_never_restored(plant: Any) -> None:
    await plant.indexer.note(await plant.case("c", b"\x01"))
    async with plant.running():
        await plant.until(lambda: bool(plant.snapshots()))
    plant.encoder.namespace = "fake-model-000000000002"
    plant.restart()
    plant.encoder.embedded = 0
    await plant.indexer.note(await plant.case("c", b"\x01"))
    async with plant.running():
        assert plant.encoder.embedded == 1


async def test_a_found_case_carries_what_was_decided(plant: Any) -> None:
    await plant.indexer.note(await plant.case("c", b"\x01", part_id="P-9"))
    async with plant.running():
        embedding = await plant.bench.embed(b"\x01")
        (match,), _ = plant.index.search(Query(embedding, "housing"))
        assert (match.case.action_taken, match.case.decision) == ("reworked", "ng")
        assert match.case.part_id == "P-9"


def test_a_snapshot_of_other_dimensions_is_refused() -> None:
    entry = (
        Case("c", "housing", "cases/x", "a" * 64),
        Embedding(np.ones(4, np.float32), np.ones((3, 2), np.float16)),
    )
    with pytest.raises(ValueError, match="expected 5 columns"):
        unpack(pack([entry]), 5)
    assert list(unpack(pack([entry]), 4)) == ["a" * 64]
