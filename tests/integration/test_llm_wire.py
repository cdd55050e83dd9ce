"""The llm stage against a language model server over real HTTP, with the real tokenizer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from adapters.memory.clock import VirtualClock
from adapters.memory.objects import MemoryObjects
from adapters.text_models.server import LlmServer, TextModelLimits
from adapters.text_models.tgi import TgiModel
from app.chaos.scripted_llm import Mode, ScriptedLlm
from consumers.llm.library import ManualLibrary
from consumers.llm.stage import Item, LlmStage, LlmWorld
from schemas.reports import ImageExplained
from tests.llm_samples import (
    KIWI,
    KOREAN,
    PRODUCT,
    KeptInspections,
    KeptProducts,
    KeptSink,
    embedded,
    manual_event,
    product,
    scored,
)


class WallClock(VirtualClock):
    """Real time, as the worker sees it."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass
class Wire:
    stage: LlmStage
    server: ScriptedLlm
    sink: KeptSink

    async def explain(self) -> ImageExplained:
        item = await self.stage.load(scored())
        assert isinstance(item, Item)
        return await self.stage.infer(item)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    store = MemoryObjects()
    library = ManualLibrary(store, KIWI)
    event = manual_event(KOREAN)
    await store.put(event.key, KOREAN.encode(), content_type="text/markdown")
    await library.apply(event)
    async with ScriptedLlm() as server:
        limits = TextModelLimits(first_token_s=1.0, total_s=8.0)
        sink = KeptSink()
        world = LlmWorld(
            products=KeptProducts({PRODUCT: product()}),
            library=library,
            inspections=KeptInspections({"embed": embedded("scratch")}),  # type: ignore[arg-type] # the one method asked
            sink=sink,
            clock=WallClock(),
            tokenizer=KIWI,
            model=TgiModel(LlmServer(server.url, limits=limits)),
        )
        yield Wire(LlmStage(world), server, sink)


def words_of(event: ImageExplained) -> str:
    return event.report.model_dump_json()


async def test_the_models_own_words_reach_the_report_and_the_preview(wire: Wire) -> None:
    event = await wire.explain()
    assert (event.report.kind, event.model, event.report.degraded) == ("model", "scripted", None)
    assert wire.server.token in words_of(event)
    assert any(wire.server.token.encode() in (one.value or b"") for one in wire.sink.messages)
    assert event.timings_ms["first_token"] > 0


@pytest.mark.parametrize(
    ("mode", "degraded"),
    [
        ("wrong_citations", "llm_unusable"),
        ("invented_numbers", "llm_unusable"),
        ("no_citations", "llm_unusable"),
        ("prose", "llm_unusable"),
        ("overloaded", "llm_away"),
        ("loading", "llm_away"),
        ("unauthorized", "llm_away"),
        ("hang", "llm_away"),
        ("invalid", "llm_refused"),
        ("error_event", "llm_refused"),
        ("failed", "llm_broke_off"),
        ("die", "llm_broke_off"),
        ("cut", "llm_broke_off"),
        ("broken_json", "llm_broke_off"),
    ],
)
async def test_whatever_the_server_does_the_operator_gets_the_manual(
    wire: Wire, mode: Mode, degraded: str
) -> None:
    wire.server.mode = mode
    event = await wire.explain()
    assert (event.report.kind, event.report.degraded) == ("extractive", degraded)
    assert event.report.immediate_action[0].text.startswith("이송 벨트를 정지")
    assert "4711" not in words_of(event)
    assert wire.server.token not in words_of(event)


@pytest.mark.parametrize("mode", ["thinking", "no_template", "slow"])
async def test_a_model_with_manners_of_its_own_still_writes_the_report(
    wire: Wire, mode: Mode
) -> None:
    wire.server.mode = mode
    event = await wire.explain()
    assert event.report.kind == "model"
    assert wire.server.token in words_of(event)


async def test_an_answer_that_broke_off_is_asked_for_once_more(wire: Wire) -> None:
    wire.server.modes = ["die", "answer"]
    event = await wire.explain()
    assert event.report.kind == "model"
    assert len(wire.server.asked) == 2
