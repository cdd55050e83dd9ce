from __future__ import annotations

import asyncio
from typing import Any

import pytest

from consumers.embed.index import Case, Match
from consumers.embed.stage import EmbedParts, EmbedStage, vote_on
from pipeline.errors import PoisonError
from pipeline.stage import Settled
from schemas.embeddings import ImageEmbedded


class Products:
    async def lookup(self, key: str) -> Any:
        return {"code": key} if key == "housing" else None


def stage_of(plant: Any) -> EmbedStage:
    parts = EmbedParts(
        bench=plant.bench,
        index=plant.index,
        products=Products(),
        wait_ready=plant.indexer.wait_ready,
        clock=plant.clock,
    )
    return EmbedStage(parts)


async def judge(plant: Any, *uploads: Any) -> list[ImageEmbedded]:
    stage = stage_of(plant)
    items: Any = [await stage.load(event) for event in uploads]
    results = await asyncio.to_thread(stage.infer, items)
    pairs = zip(uploads, results, strict=True)
    return [await stage.save(event, result) for event, result in pairs]  # type: ignore[misc]  # save returns the port's Event


async def test_an_image_gets_its_five_most_similar_cases(plant: Any) -> None:
    for number in range(9):
        await plant.indexer.note(await plant.case(f"c{number}", bytes([number + 1])))
    async with plant.running():
        (out,) = await judge(plant, await plant.upload(b"\x63"))
    assert len(out.neighbours) == 5
    similarities = [neighbour.similarity for neighbour in out.neighbours]
    assert similarities == sorted(similarities, reverse=True)
    assert out.neighbours[0].action_taken == "reworked"
    assert (out.stage, out.model) == ("embed", "fake:model")
    assert set(out.timings_ms) == {"load", "infer"}


async def test_equal_input_gives_an_equal_event_in_any_batch(plant: Any) -> None:
    for number in range(9):
        await plant.indexer.note(await plant.case(f"c{number}", bytes([number + 1])))
    first, second = await plant.upload(b"\x63"), await plant.upload(b"\x40")
    async with plant.running():
        together = await judge(plant, first, second)
        alone = await judge(plant, first) + await judge(plant, second)
    loose = {"occurred_at", "timings_ms"}
    assert [e.model_dump(exclude=loose) for e in together] == [
        e.model_dump(exclude=loose) for e in alone
    ]


async def test_a_registered_image_is_not_its_own_neighbour(plant: Any) -> None:
    upload = await plant.upload(b"\x05")
    own = {"image_id": upload.subject.image_id}
    await plant.indexer.note(await plant.case("same-bytes", b"\x05"))
    await plant.indexer.note(await plant.case("same-image", b"\x05", **own))
    await plant.indexer.note(await plant.case("other", b"\x06"))
    async with plant.running():
        (out,) = await judge(plant, upload)
    assert [neighbour.case_id for neighbour in out.neighbours] == ["other"]


async def test_another_view_of_the_same_part_is_no_evidence(plant: Any) -> None:
    await plant.indexer.note(await plant.case("same-part", b"\x05", part_id="P-1"))
    async with plant.running():
        (out,) = await judge(plant, await plant.upload(b"\x06", part_id="P-1"))
    assert out.neighbours == ()
    assert (out.voted_defect_type, out.voted_confidence) == (None, None)


async def test_an_unknown_product_is_poison(plant: Any) -> None:
    async with plant.running():
        with pytest.raises(PoisonError) as caught:
            await stage_of(plant).load(await plant.upload(b"\x05", product="nobody"))
    assert caught.value.reason == "unknown_product"


async def test_a_broken_picture_is_poison_and_its_neighbour_is_not(plant: Any) -> None:
    stage = stage_of(plant)
    async with plant.running():
        with pytest.raises(PoisonError) as caught:
            await stage.load(await plant.upload(b"bad bytes"))
        assert caught.value.reason == "corrupt_image"
        assert len(await judge(plant, await plant.upload(b"\x05"))) == 1


async def test_an_event_for_another_stage_is_settled_without_a_word(plant: Any) -> None:
    assert await stage_of(plant).load(await plant.case("c", b"\x05")) == Settled(None)


async def test_no_image_is_answered_from_half_an_index(plant: Any) -> None:
    upload = await plant.upload(b"\x05")
    async with plant.running(caught_up=False):
        loading = asyncio.create_task(stage_of(plant).load(upload))
        await asyncio.sleep(0)
        assert not loading.done()
        plant.log.caught_up.set()
        item = await loading
    assert not isinstance(item, Settled)


def match(defect_type: str | None, similarity: float) -> Match:
    return Match(Case("c", "housing", "k", "a" * 64, defect_type=defect_type), similarity)


def test_closer_cases_weigh_more_in_the_vote() -> None:
    vote = vote_on([match("dent", 0.9), match("scratch", 0.55), match("scratch", 0.55)], 0.5)
    assert vote.defect_type == "dent"
    assert vote.confidence == pytest.approx(0.8)


def test_without_a_close_match_there_is_no_vote() -> None:
    assert vote_on([match("dent", 0.49)], 0.5) == (None, None)
    assert vote_on([], 0.5) == (None, None)


def test_cases_without_a_type_vote_against_naming_one() -> None:
    assert vote_on([match(None, 0.9), match("dent", 0.6)], 0.5) == (None, None)


def test_a_tied_vote_is_the_same_everywhere() -> None:
    tied = [match("scratch", 0.75), match("dent", 0.75)]
    assert vote_on(tied, 0.5) == vote_on(tied[::-1], 0.5) == ("dent", 0.5)
