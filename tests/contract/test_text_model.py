"""What every TextModel promises: the fake in memory, TGI and OpenAI chat over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest

from adapters.memory.text_model import MemoryTextModel
from adapters.text_models.openai_chat import OpenAiChatModel
from adapters.text_models.server import LlmServer, TextModelLimits
from adapters.text_models.tgi import TgiModel
from app.chaos.scripted_llm import Mode, ScriptedLlm
from pipeline.errors import ConfigError, DependencyDownError, PoisonError, TransientError
from pipeline.ports import TextModel
from tests.llm_samples import until

PROMPT = "[Excerpt 1] a\nStop the line at once.\nCheck the roller for dirt.\n\n[Excerpt 2] b\nNo."
LIMITS = TextModelLimits(first_token_s=1.0, total_s=4.0, concurrency=2)
WIRES: dict[str, Callable[[LlmServer], TextModel]] = {"tgi": TgiModel, "openai": OpenAiChatModel}


@asynccontextmanager
async def opened(kind: str, mode: Mode = "answer") -> AsyncIterator[tuple[TextModel, ScriptedLlm]]:
    async with ScriptedLlm(mode=mode) as server:
        yield WIRES[kind](LlmServer(server.url, limits=LIMITS)), server


async def text_of(model: TextModel, *, max_tokens: int = 400) -> str:
    return "".join([piece async for piece in model.stream("s", PROMPT, max_tokens=max_tokens)])


@dataclass
class Fake:
    """Scripts for the fake that stand for the server's modes."""

    script: list[Any]


FAKES: dict[Mode, Fake] = {
    "answer": Fake(["causes | ", "dirt [1]"]),
    "overloaded": Fake([DependencyDownError("llm")]),
    "invalid": Fake([PoisonError("prompt_refused")]),
    "die": Fake(["causes", TransientError("broke off")]),
}


@pytest.mark.parametrize("kind", ["memory", *WIRES])
@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("answer", None),
        ("overloaded", DependencyDownError),
        ("invalid", PoisonError),
        ("die", TransientError),
    ],
)
async def test_every_model_answers_or_raises_what_the_port_names(
    kind: str, mode: Mode, error: type[Exception] | None
) -> None:
    async def run(model: TextModel) -> None:
        if error is None:
            assert "causes | " in await text_of(model)
            return
        with pytest.raises(error) as caught:
            await text_of(model)
        assert type(caught.value) is error

    if kind == "memory":
        await run(MemoryTextModel([FAKES[mode].script]))
        return
    async with opened(kind, mode) as (model, _):
        await run(model)


@pytest.mark.parametrize("kind", WIRES)
@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("loading", DependencyDownError),
        ("unauthorized", DependencyDownError),
        ("hang", DependencyDownError),
        ("overloaded_event", DependencyDownError),
        ("failed", TransientError),
        ("stall", TransientError),
        ("cut", TransientError),
        ("broken_json", TransientError),
        ("error_event", PoisonError),
    ],
)
async def test_a_servers_trouble_has_one_name(
    kind: str, mode: Mode, error: type[Exception]
) -> None:
    async with opened(kind, mode) as (model, _):
        with pytest.raises(error) as caught:
            await text_of(model)
        assert type(caught.value) is error


@pytest.mark.parametrize("kind", WIRES)
async def test_a_server_that_is_not_there_is_away(kind: str) -> None:
    async with opened(kind) as (model, server):
        await server.stop()
        with pytest.raises(DependencyDownError) as caught:
            await text_of(model)
        assert caught.value.dependency == "llm"
        with pytest.raises(DependencyDownError):
            await model.check()


@pytest.mark.parametrize("kind", WIRES)
async def test_an_answer_that_takes_too_long_is_given_up(kind: str) -> None:
    async with ScriptedLlm(mode="slow") as server:
        limits = TextModelLimits(first_token_s=2.0, total_s=0.8)
        model = WIRES[kind](LlmServer(server.url, limits=limits))
        with pytest.raises(TransientError) as caught:
            await text_of(model)
        assert type(caught.value) is TransientError
        await until(lambda: server.disconnects == 1)


@pytest.mark.parametrize("kind", WIRES)
async def test_closing_the_iterator_ends_the_work_on_the_server(kind: str) -> None:
    async with opened(kind, "slow") as (model, server):
        stream = cast("AsyncGenerator[str, None]", model.stream("s", PROMPT, max_tokens=400))
        assert await anext(stream)
        await stream.aclose()
        await until(lambda: server.disconnects == 1)


@pytest.mark.parametrize("kind", WIRES)
@pytest.mark.parametrize("mode", ["slow", "hang"])
async def test_a_cancelled_task_ends_the_work_on_the_server(kind: str, mode: Mode) -> None:
    async with opened(kind, mode) as (model, server):
        asking = asyncio.create_task(text_of(model))
        await until(lambda: bool(server.asked))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: server.disconnects == 1)
        server.mode = "answer"
        assert await text_of(model)


@pytest.mark.parametrize("kind", WIRES)
async def test_no_more_calls_run_at_once_than_allowed(kind: str) -> None:
    async with opened(kind, "slow") as (model, server):
        tasks = [asyncio.create_task(text_of(model)) for _ in range(3)]
        await until(lambda: len(server.asked) == 2)
        with pytest.raises(DependencyDownError):  # the third found no slot within its second
            await asyncio.gather(*tasks)
        assert len(server.asked) == 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("kind", WIRES)
async def test_max_tokens_reaches_the_server(kind: str) -> None:
    async with opened(kind) as (model, server):
        assert len((await text_of(model, max_tokens=3)).split()) == 3
        assert server.asked[0].body["max_tokens"] == 3


@pytest.mark.parametrize("kind", WIRES)
async def test_a_check_makes_a_round_trip_and_names_the_model(kind: str) -> None:
    async with opened(kind) as (model, server):
        assert await model.check() == "scripted"
        assert server.asked


@pytest.mark.parametrize("kind", WIRES)
async def test_a_check_tells_wrong_credentials_from_away(kind: str) -> None:
    async with ScriptedLlm(api_key="right") as server:
        with pytest.raises(ConfigError, match="LINESIDE_LLM__API_KEY"):
            await WIRES[kind](LlmServer(server.url, api_key="wrong", limits=LIMITS)).check()
        right = WIRES[kind](LlmServer(server.url, api_key="right", limits=LIMITS))
        assert await right.check() == "scripted"


async def test_a_check_names_a_model_that_is_not_served() -> None:
    async with ScriptedLlm() as server:
        model = OpenAiChatModel(LlmServer(server.url, model="other", limits=LIMITS))
        with pytest.raises(ConfigError, match="offers scripted"):
            await model.check()


async def test_a_server_that_cannot_list_its_models_still_answers() -> None:
    async with opened("openai", "no_listing") as (model, _):
        assert await text_of(model)
        assert await model.check() == "openai"


async def test_tgi_without_a_chat_template_uses_its_plain_route() -> None:
    async with opened("tgi", "no_template") as (model, server):
        assert "causes | " in await text_of(model)
        assert [request.path for request in server.asked] == [
            "/v1/chat/completions",
            "/generate_stream",
        ]
        await text_of(model)
        assert server.asked[-2].path == "/generate_stream"


@pytest.mark.parametrize("mode", ["die", "cut", "overloaded", "error_event"])
async def test_trouble_on_tgis_plain_route_has_the_same_names(mode: Mode) -> None:
    expected = {"overloaded": DependencyDownError, "error_event": PoisonError}
    async with opened("tgi", "no_template") as (model, server):
        await text_of(model)
        server.mode = mode
        with pytest.raises(expected.get(mode, TransientError)) as caught:
            await text_of(model)
        assert type(caught.value) is expected.get(mode, TransientError)


@pytest.mark.parametrize("kind", WIRES)
async def test_the_machines_hub_login_and_offline_switch_do_not_matter(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_private")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    async with opened(kind) as (model, server):
        assert await text_of(model)
        sent = [request.headers.get("authorization", "") for request in server.requests]
        assert all("hf_private" not in header for header in sent)


@pytest.mark.parametrize("address", ["localhost:5001", "my-model", "ftp://host", ""])
def test_an_address_that_the_client_would_take_for_a_hub_model_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="LINESIDE_LLM__BASE_URL"):
        LlmServer(address)


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_the_usual_forms_of_the_address_mean_the_same(suffix: str) -> None:
    assert LlmServer(f"http://host:1{suffix}").root == "http://host:1"
