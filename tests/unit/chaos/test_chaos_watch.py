from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets

from app.chaos.watch import FeedClient, MemoryWatch, running
from notifier.positions import encode_position
from schemas.message import TopicPartition
from tests.services import until

PLACE = TopicPartition("images.scored", 0)


async def test_memory_is_watched_by_role_and_by_place_within_it() -> None:
    """All nodes are one role; a process that does not work yet has no age."""
    pids = {"web": os.getpid(), "broker-2": os.getppid(), "gone": 2**22 + 1}
    watch = MemoryWatch(lambda: pids, lambda place, since: None if place == "web" else since)
    async with running(watch.run):
        await until(lambda: "broker" in watch.samples, "one round was taken")
    (own, node) = watch.samples["web"][0], watch.samples["broker"][0]
    assert watch.samples.keys() == {"web", "broker"}
    assert (own.place, own.pid, own.age_s) == ("web", os.getpid(), -1.0)
    assert own.rss_bytes > 1_000_000
    assert (node.place, node.age_s > 0) == ("broker-2", True)


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
