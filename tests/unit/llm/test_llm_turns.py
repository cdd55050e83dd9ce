"""Reports that wait while the language model is busy, or hangs."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from app.llm_parts import reports_at_once
from app.settings import LlmSettings
from consumers.llm.explainer import PREVIEW_AFTER_S
from pipeline.errors import DependencyDownError
from tests.llm_rig import Bench, bench, true_answer
from tests.llm_samples import request, scored, until


def another(number: int, event: Any = None) -> Any:
    """The same finding on another image."""
    event = event or scored()
    mine = {"image_id": f"{number:032x}"}
    return event.model_copy(
        update={
            "event_id": UUID(int=number),
            "subject": event.subject.model_copy(update=mine),
        }
    )


def previews_ahead(made: Bench) -> int:
    """How many reports wait for the moment to show the manual's own words."""
    return sum(not waiter.done() for *_, waiter in made.clock._sleepers)


async def test_a_model_that_hangs_keeps_no_report_from_its_preview() -> None:
    gate = asyncio.Event()
    made = await bench([gate, DependencyDownError("llm")], asks_at_once=2)
    model = made.model
    assert model is not None
    explaining = [asyncio.create_task(made.explain(another(number))) for number in range(1, 9)]
    await until(lambda: len(model.prompts) == 2 and previews_ahead(made) == 8)
    assert made.sink.messages == []
    await made.clock.advance(PREVIEW_AFTER_S)
    await until(lambda: sum(one.last for one in made.streamed()) == 8)
    assert len({one.subject.image_id for one in made.streamed()}) == 8
    assert not any(task.done() for task in explaining)
    gate.set()
    events = await asyncio.gather(*explaining)
    assert {event.report.degraded for event in events} == {"llm_away"}
    assert len(model.prompts) == 2, "who waited asked a server that was known to hang"


async def test_who_waits_for_a_turn_asks_when_one_is_free_and_a_request_goes_first() -> None:
    answer = await true_answer()
    gate = asyncio.Event()
    made = await bench([gate, *answer], answer, asks_at_once=1)
    model = made.model
    assert model is not None
    made.inspections.current_events["anomaly"] = scored()
    ended: list[UUID] = []
    explaining = []
    for event in (another(1), another(2), another(3, request())):
        task = asyncio.create_task(made.explain(event))
        task.add_done_callback(lambda done: ended.append(done.result().origin_event_id))
        explaining.append(task)
        await until(lambda: previews_ahead(made) == len(explaining))
    gate.set()
    events = await asyncio.gather(*explaining)
    assert {event.report.kind for event in events} == {"model"}
    assert ended[1] == UUID(int=3)


async def test_one_report_tries_a_model_that_was_away_and_others_do_not_wait_for_it() -> None:
    gate = asyncio.Event()
    made = await bench([DependencyDownError("llm")], [gate, DependencyDownError("llm")])
    model = made.model
    assert model is not None
    await made.explain(another(1))
    await made.clock.advance(1.1)
    trying = asyncio.create_task(made.explain(another(2)))
    await until(lambda: len(model.prompts) == 2)
    assert (await made.explain(another(3))).report.degraded == "llm_away"
    assert len(model.prompts) == 2
    gate.set()
    assert (await trying).report.degraded == "llm_away"


async def test_a_report_that_is_given_up_while_it_waits_leaves_its_turn_to_others() -> None:
    answer = await true_answer()
    gate = asyncio.Event()
    made = await bench([gate, *answer], answer, asks_at_once=1)
    explaining = []
    for number in range(1, 4):
        explaining.append(asyncio.create_task(made.explain(another(number))))
        await until(lambda: previews_ahead(made) == len(explaining))
    explaining[1].cancel()
    await asyncio.wait({explaining[1]})
    gate.set()
    assert (await explaining[0]).report.kind == "model"
    assert (await explaining[2]).report.kind == "model"


def test_a_role_with_a_model_has_more_reports_in_the_making_than_the_model_writes() -> None:
    assert reports_at_once(LlmSettings()) == LlmSettings().slots
    with_model = LlmSettings(base_url="http://127.0.0.1:8080", slots=2)
    assert reports_at_once(with_model) >= 10 * with_model.slots
