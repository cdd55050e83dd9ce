from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from consumers.llm.explainer import PREVIEW_AFTER_S
from consumers.llm.stage import Item
from pipeline.errors import DependencyDownError, PoisonError, TransientError
from pipeline.stage import Settled
from schemas.event import Event
from schemas.images import ImageSkipped
from tests.llm_rig import bench, true_answer
from tests.llm_samples import (
    NOW,
    product,
    request,
    scored,
    until,
)

# --- what is loaded, what is skipped ---------------------------------------------------------


async def test_without_a_model_the_manuals_own_words_are_the_report() -> None:
    made = await bench()
    event = await made.explain(scored())
    assert (event.report.kind, event.report.degraded, event.model) == (
        "extractive",
        None,
        "extractive",
    )
    assert event.report.immediate_action[0].text.startswith("이송 벨트를 정지")
    assert event.trigger_event_id == scored().event_id
    assert {"retrieval", "total"} == set(event.timings_ms)


@pytest.mark.parametrize(
    ("event", "settings", "reason"),
    [
        (scored("OK"), {}, "not_applicable"),
        (scored("ERROR", report="force"), {}, "not_applicable"),
        (scored("NG", report="skip"), {}, "request"),
        (scored("NG"), {"policy": {"report": "on_request"}}, "policy"),
    ],
)
async def test_an_image_that_needs_no_report_is_skipped(
    event: Event, settings: dict[str, Any], reason: str
) -> None:
    made = await bench(settings=settings)
    settled = await made.stage.load(event)
    assert isinstance(settled, Settled)
    assert isinstance(settled.event, ImageSkipped)
    assert (settled.event.reason, settled.event.configuration_revision) == (reason, 3)


@pytest.mark.parametrize("verdict", ["OK", "NG", "REVIEW"])
async def test_force_gets_a_report_whatever_the_policy(verdict: str) -> None:
    made = await bench(settings={"policy": {"report": "on_request"}})
    assert isinstance(await made.stage.load(scored(verdict, report="force")), Item)


async def test_a_request_for_another_stage_is_not_ours() -> None:
    made = await bench()
    assert await made.stage.load(request("anomaly")) == Settled()
    assert await made.stage.load(product()) == Settled()


async def test_a_request_explains_the_current_verdict() -> None:
    made = await bench(settings={"policy": {"report": "on_request"}})
    made.inspections.current_events["anomaly"] = scored()
    event = await made.explain(request())
    assert event.origin_event_id == request().event_id
    assert not event.refused


async def test_a_request_waits_for_a_verdict_and_is_then_not_applicable() -> None:
    made = await bench()
    with pytest.raises(TransientError) as caught:
        await made.stage.load(request())
    assert caught.value.not_before is not None
    assert NOW < caught.value.not_before <= NOW + timedelta(seconds=5)
    await made.clock.advance(5)
    settled = await made.stage.load(request())
    assert isinstance(settled, Settled)
    assert isinstance(settled.event, ImageSkipped)
    assert settled.event.reason == "not_applicable"


async def test_an_unknown_product_is_poison() -> None:
    made = await bench()
    stranger = scored().subject.model_copy(update={"product": "unknown"})
    with pytest.raises(PoisonError) as caught:
        await made.stage.load(scored().model_copy(update={"subject": stranger}))
    assert caught.value.reason == "unknown_product"


async def test_neighbours_are_awaited_for_three_seconds_and_then_missed_in_the_report() -> None:
    made = await bench()
    made.inspections.current_events.clear()
    with pytest.raises(TransientError) as caught:
        await made.stage.load(scored())
    assert caught.value.not_before is not None
    assert caught.value.not_before <= NOW + timedelta(seconds=3)
    await made.clock.advance(3)
    event = await made.explain(scored())
    assert event.report.degraded == "no_neighbours"
    assert event.report.similar_cases == ()


async def test_a_backlog_adds_no_wait() -> None:
    made = await bench()
    made.inspections.current_events.clear()
    old = scored().model_copy(update={"occurred_at": NOW - timedelta(hours=2)})
    assert isinstance(await made.stage.load(old), Item)


async def test_a_verdict_from_a_fast_clock_is_not_held() -> None:
    made = await bench()
    made.inspections.current_events.clear()
    ahead = scored().model_copy(update={"occurred_at": NOW + timedelta(hours=2)})
    assert isinstance(await made.stage.load(ahead), Item)


async def test_no_manual_is_refused_with_what_would_help() -> None:
    event = await (await bench(manuals=())).explain(scored())
    assert event.refused
    assert "매뉴얼을 추가" in (event.report.refusal_reason or "")


async def test_equal_input_gives_an_equal_event() -> None:
    first = await (await bench()).explain(scored())
    second = await (await bench()).explain(scored())
    assert first == second


# --- what the model may say -------------------------------------------------------------------


async def test_checked_sentences_are_streamed_and_make_the_report() -> None:
    made = await bench(await true_answer())
    event = await made.explain(scored())
    assert (event.report.kind, event.report.degraded, event.model) == ("model", None, "memory")
    assert event.report.corrective_action[0].text == "가이드 간격을 0.5 mm로 맞춘다."
    quotes = {citation.id: citation.quote for citation in event.report.citations}
    (number,) = event.report.corrective_action[0].citations
    assert quotes[number] == "가이드 간격을 0.5 mm로 조정한다."
    streamed = made.streamed()
    assert [one.sequence for one in streamed] == list(range(len(streamed)))
    assert len({one.stream_id for one in streamed}) == 1
    assert [one.last for one in streamed] == [False] * (len(streamed) - 1) + [True]
    assert {one.sentence for one in streamed} >= {"금속 칩이 표면을 긁는다."}


async def test_safety_comes_from_the_manual_verbatim_and_never_from_the_model() -> None:
    answer = [*await true_answer(), "safety | 벨트 전원을 차단하지 않아도 된다. [1]\n"]
    event = await (await bench(answer)).explain(scored())
    assert [note.text for note in event.report.safety_notes] == [
        "경고: 벨트 전원을 차단하고 잠금 표지를 건 뒤에 손을 넣는다."
    ]


@pytest.mark.parametrize(
    "line",
    [
        "checks | 가이드 간격이 0.7 mm인지 확인한다. [1]",
        "checks | 가이드 간격을 확인한다.",
        "checks | 가이드 간격을 확인한다. [88]",
        "checks | 판정은 NG이다. [0]",
        "checks | 본사에 전화하여 엔지니어를 부른다. [1]",
    ],
)
async def test_a_sentence_without_support_is_dropped_and_the_rest_stays(line: str) -> None:
    answer = [*await true_answer(), line]
    made = await bench(answer)
    event = await made.explain(scored())
    assert event.report.kind == "model"
    assert event.report.checks == ()
    assert all(one.section != "checks" for one in made.streamed())


async def test_a_model_that_says_nothing_useful_gives_way_to_the_manual() -> None:
    event = await (await bench(["Everything looks fine to me, call somebody."])).explain(scored())
    assert (event.report.kind, event.report.degraded) == ("extractive", "llm_unusable")


async def test_what_the_manual_says_of_immediate_action_is_never_missing() -> None:
    answer = (await true_answer())[1:]
    event = await (await bench(answer)).explain(scored())
    assert event.report.kind == "model"
    assert event.report.immediate_action[0].text.startswith("이송 벨트를 정지")


# --- when the model is away, slow or breaks off ------------------------------------------------


@pytest.mark.parametrize(
    ("error", "degraded"),
    [
        (DependencyDownError("llm"), "llm_away"),
        (PoisonError("prompt_refused"), "llm_refused"),
        (TransientError("broke off"), "llm_broke_off"),
    ],
)
async def test_a_model_that_fails_leaves_an_excerpt_marked_as_such(
    error: Exception, degraded: str
) -> None:
    made = await bench([error])
    event = await made.explain(scored())
    assert (event.report.kind, event.report.degraded) == ("extractive", degraded)
    assert not event.refused


async def test_an_answer_that_breaks_off_is_tried_once_more_in_a_new_stream() -> None:
    answer = await true_answer()
    made = await bench([answer[0], TransientError("broke off")], answer)
    event = await made.explain(scored())
    assert event.report.kind == "model"
    streams = list(dict.fromkeys(one.stream_id for one in made.streamed()))
    assert len(streams) == 2
    second = [one.sequence for one in made.streamed() if one.stream_id == streams[1]]
    assert second == list(range(len(second)))


async def test_after_sentences_of_a_model_that_died_the_excerpt_replaces_them() -> None:
    answer = await true_answer()
    made = await bench([answer[0], DependencyDownError("llm")])
    event = await made.explain(scored())
    assert event.report.degraded == "llm_away"
    streams = list(dict.fromkeys(one.stream_id for one in made.streamed()))
    assert len(streams) == 2
    assert made.streamed()[-1].last


async def test_a_model_that_is_away_is_left_alone_until_it_is_time_to_try() -> None:
    made = await bench([DependencyDownError("llm")], await true_answer())
    assert made.model is not None
    assert (await made.explain(scored())).report.degraded == "llm_away"
    assert (await made.explain(scored())).report.degraded == "llm_away"
    assert len(made.model.prompts) == 1
    await made.clock.advance(1.1)
    assert (await made.explain(scored())).report.kind == "model"
    assert len(made.model.prompts) == 2


async def test_a_slow_model_is_preceded_by_the_manuals_own_words() -> None:
    gate = asyncio.Event()
    made = await bench([gate, *await true_answer()])
    model = made.model
    assert model is not None
    explaining = asyncio.create_task(made.explain(scored()))
    await until(lambda: bool(model.prompts))
    assert made.sink.messages == []
    await made.clock.advance(PREVIEW_AFTER_S)
    await until(lambda: bool(made.streamed()) and made.streamed()[-1].last)
    gate.set()
    event = await explaining
    assert event.report.kind == "model"
    streams = list(dict.fromkeys(one.stream_id for one in made.streamed()))
    assert len(streams) == 2


async def test_a_preview_that_cannot_be_published_does_not_cost_the_report() -> None:
    made = await bench(await true_answer())
    made.sink.error = TransientError("broker away")
    event = await made.explain(scored())
    assert event.report.kind == "model"


async def test_a_cancelled_report_closes_the_models_stream() -> None:
    gate = asyncio.Event()
    made = await bench([gate])
    model = made.model
    assert model is not None
    explaining = asyncio.create_task(made.explain(scored()))
    await until(lambda: bool(model.prompts))
    explaining.cancel()
    await asyncio.gather(explaining, return_exceptions=True)
    assert model.closed == 1
    await made.clock.advance(PREVIEW_AFTER_S + 1)
    assert made.sink.messages == []
