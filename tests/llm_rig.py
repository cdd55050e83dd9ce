"""The llm stage with everything around it in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from adapters.memory.clock import VirtualClock
from adapters.memory.objects import MemoryObjects
from adapters.memory.text_model import MemoryTextModel, Step
from consumers.llm.library import ManualLibrary
from consumers.llm.stage import Item, LlmStage, LlmWorld
from consumers.llm.tokens import PlainTokenizer
from schemas.codec import decode
from schemas.event import Event
from schemas.message import Record
from schemas.reports import ImageExplained, ReportStreamed
from tests.llm_samples import (
    KOREAN,
    NOW,
    PRODUCT,
    KeptInspections,
    KeptProducts,
    KeptSink,
    embedded,
    manual_event,
    product,
    scored,
)

TRUE_LINES = (
    "immediate_action | 이송 벨트를 정지하고 스크래치가 난 부품을 즉시 분리한다. [{belt}]\n",
    "causes | 금속 칩이 표면을 긁는다. [{chip}]\n",
    "correction | 가이드 간격을 0.5 mm로 맞춘다. [{gap}]\n",
)


@dataclass
class Bench:
    """A stage with everything around it in memory."""

    model: MemoryTextModel | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    manuals: tuple[str, ...] = (KOREAN,)
    asks_at_once: int = 4
    clock: VirtualClock = field(default_factory=lambda: VirtualClock(NOW))
    sink: KeptSink = field(default_factory=KeptSink)
    inspections: KeptInspections = field(default_factory=KeptInspections)
    stage: LlmStage = field(init=False)

    async def open(self) -> Bench:
        store = MemoryObjects()
        library = ManualLibrary(store, PlainTokenizer())
        for text in self.manuals:
            event = manual_event(text)
            await store.put(event.key, text.encode(), content_type="text/markdown")
            await library.apply(event)
        self.stage = LlmStage(
            LlmWorld(
                products=KeptProducts({PRODUCT: product(**self.settings)}),
                library=library,
                inspections=self.inspections,  # type: ignore[arg-type] # the one method asked
                sink=self.sink,
                clock=self.clock,
                tokenizer=PlainTokenizer(),
                model=self.model,
                asks_at_once=self.asks_at_once,
            ),
            run_id=UUID(int=7),
        )
        return self

    async def explain(self, event: Event) -> ImageExplained:
        item = await self.stage.load(event)
        assert isinstance(item, Item)
        result = await self.stage.infer(item)
        saved = await self.stage.save(event, result)
        assert isinstance(saved, ImageExplained)
        return saved

    def streamed(self) -> list[ReportStreamed]:
        events = []
        for message in self.sink.messages:
            event = decode(Record(message.topic, 0, 0, message.key, message.value))
            assert isinstance(event, ReportStreamed)
            events.append(event)
        return events


async def bench(*scripts: list[Step], voted: str | None = "scratch", **options: Any) -> Bench:
    model = MemoryTextModel(list(scripts)) if scripts else None
    made = await Bench(model=model, **options).open()
    made.inspections.current_events["embed"] = embedded(voted)
    return made


async def true_answer(**options: Any) -> list[Step]:
    """What an honest model would say: true sentences with the numbers the prompt gave them."""
    probe = await bench(["x"], **options)
    await probe.explain(scored())
    assert probe.model is not None
    blocks = probe.model.prompts[0][1].split("\n\n")

    def number(words: str) -> str:
        block = next(block for block in blocks if words in block and block.startswith("[발췌"))
        return block.split("]")[0].removeprefix("[발췌 ")

    places = {"belt": number("분리한다"), "chip": number("금속 칩"), "gap": number("0.5 mm")}
    return [line.format(**places) for line in TRUE_LINES]
