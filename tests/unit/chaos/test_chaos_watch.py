from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets

from app.chaos.watch import FeedClient, Sample, running, slope_mb_min
from notifier.positions import encode_position
from schemas.message import TopicPartition
from tests.services import until

PLACE = TopicPartition("images.scored", 0)


def life(pid: int, *, start_mb: float, mb_min: float, seconds: int = 60) -> list[Sample]:
    return [
        Sample(pid, float(age), int((start_mb + mb_min * age / 60) * 1e6)) for age in range(seconds)
    ]


def test_memory_that_grows_within_each_life_shows_though_restarts_hide_it() -> None:
    samples = life(1, start_mb=100, mb_min=12) + life(2, start_mb=90, mb_min=12)
    assert slope_mb_min(samples) == pytest.approx(12, abs=0.1)


def test_a_restart_at_another_size_is_no_growth() -> None:
    samples = life(1, start_mb=100, mb_min=0) + life(2, start_mb=400, mb_min=0)
    assert slope_mb_min(samples) == pytest.approx(0, abs=0.01)


def test_how_a_process_grows_up_does_not_count_and_a_short_life_says_nothing() -> None:
    young = [Sample(1, float(age), age * 50_000_000) for age in range(20)]
    assert slope_mb_min(young) is None
    assert slope_mb_min(young + life(2, start_mb=100, mb_min=0)) == pytest.approx(0, abs=0.01)


@asynccontextmanager
async def feed(scripts: Sequence[Sequence[dict[str, Any]]]) -> AsyncIterator[tuple[str, list[Any]]]:
    """A feed that says one script a connection and then hangs up; notes what it was asked."""
    asked: list[Any] = []

    async def serve(line: websockets.ServerConnection) -> None:
        script = scripts[min(len(asked), len(scripts) - 1)]
        asked.append(json.loads(await line.recv())["position"])
        for message in script:
            await line.send(json.dumps(message))

    async with websockets.serve(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


def event(name: str, offset: int) -> dict[str, Any]:
    position = encode_position("c", {PLACE: offset})
    said = {"event_id": name}
    return {"type": "event", "topic": PLACE.topic, "position": position, "event": said}


def hello(*, recovered: bool = True) -> dict[str, Any]:
    return {"type": "hello", "recovered": recovered, "from": "", "to": ""}


async def test_the_feeds_client_comes_back_where_it_was_cut_off_and_counts_gaps() -> None:
    scripts = ([hello(), event("a", 1)], [hello(recovered=False), event("b", 2)], [hello()])
    async with feed(scripts) as (url, asked):
        client = FeedClient(url)
        async with running(client.run):
            await until(lambda: len(asked) >= 3, "it comes back twice")
        assert asked[:2] == ["earliest", encode_position("c", {PLACE: 1})]
        assert client.seen == {(PLACE.topic, "a"), (PLACE.topic, "b")}
        assert client.gaps == 1
        assert client.has_reached({PLACE: 2})
        assert not client.has_reached({PLACE: 3})


async def test_an_error_of_a_watcher_ends_the_run() -> None:
    async def fails() -> None:
        raise ValueError("nobody watches any more")

    with pytest.raises(BaseExceptionGroup, match="unhandled"):
        async with running(fails):
            await asyncio.get_running_loop().create_future()
