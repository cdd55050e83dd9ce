"""A feed on a broker in memory, served by a real server: what tests of the notifier share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect

from adapters.clock import SystemClock
from adapters.memory.broker import MemoryBroker
from console.problems import install_problem_handlers
from notifier.feed import FEED_TOPICS, Feed
from notifier.gateway import FeedTimes, build_router
from notifier.hub import Hub, HubLimits
from pipeline.ports import Clock, LogExtent
from pipeline.steady_reader import SteadyOpenReader
from schemas.anomalies import ImageScored
from schemas.codec import encode
from schemas.event import Event
from schemas.images import ImageUploaded
from schemas.subject import ImageRef, Subject

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def subject(number: int, *, product: str = "bearing", source: str = "cam-1") -> Subject:
    ref = ImageRef(bucket="b", key=f"images/{number}", sha256=f"{number:064x}", size_bytes=1)
    return Subject(
        image_id=f"{number:032x}",
        product=product,
        source=source,
        station=f"S-{number % 5}",
        captured_at=NOW,
        received_at=NOW,
        image=ref,
    )


def uploaded(number: int, **who: str) -> ImageUploaded:
    return ImageUploaded(event_id=uuid4(), occurred_at=NOW, subject=subject(number, **who))


def scored(number: int, verdict: str = "OK", **who: str) -> ImageScored:
    return ImageScored.model_validate(
        {
            "event_id": uuid4(),
            "occurred_at": NOW,
            "subject": subject(number, **who),
            "stage": "anomaly",
            "trigger_event_id": uuid4(),
            "origin_event_id": uuid4(),
            "origin_at": NOW,
            "verdict": verdict,
            "reason": "threshold",
        }
    )


class FeedRig:
    """A broker that outlives the notifiers in front of it."""

    def __init__(self, limits: HubLimits | None = None, times: FeedTimes | None = None) -> None:
        self.broker = MemoryBroker(SystemClock(), partitions=2)
        self.clock: Clock = SystemClock()
        self.cluster_id = "cluster-1"
        self.first = 0
        self.limits = limits
        self.times = times or FeedTimes(heartbeat_s=0.2, subscribe_within_s=0.5)
        self.url = ""
        self.feed = self._new_feed()

    def _new_feed(self) -> Feed:
        hub = Hub(self.limits)
        open_reader = SteadyOpenReader(self.broker.open_reader, self.clock)
        return Feed(hub, open_reader, self.describe, clock=SystemClock())

    async def describe(self, topics: Collection[str]) -> LogExtent:
        self.broker.check_up()
        places = self.broker.places(topics)
        ends = {place: self.broker.end(place) for place in places}
        firsts = {place: min(self.first, end) for place, end in ends.items()}
        return LogExtent(self.cluster_id, firsts, ends)

    def say(self, *events: Event) -> list[str]:
        for event in events:
            self.broker.append(encode(event, source="/test"))
        return [str(event.event_id) for event in events]

    @asynccontextmanager
    async def notifier(self, wrap: Callable[[Any], Any] = lambda app: app) -> AsyncIterator[None]:
        """Run a feed and its server on a free port."""
        self.feed = self._new_feed()
        app = FastAPI()
        app.include_router(build_router(self.feed, self.times))
        install_problem_handlers(app)
        config = uvicorn.Config(
            wrap(app),
            port=0,
            log_level="error",
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined] # older name
        tasks = [asyncio.create_task(self.feed.run()), asyncio.create_task(server.serve())]
        try:
            await until(lambda: server.started and self.feed.hub.is_open and not self.feed.is_away)
            port = server.servers[0].sockets[0].getsockname()[1]
            self.url = f"127.0.0.1:{port}"
            yield
        finally:
            server.should_exit = True
            tasks[0].cancel()
            with suppress(asyncio.CancelledError):
                await tasks[0]
            await tasks[1]

    @asynccontextmanager
    async def client(
        self, position: str = "latest", **wanted: list[str]
    ) -> AsyncIterator[FeedClient]:
        async with connect(f"ws://{self.url}/v1/feed", compression=None) as socket:
            await socket.send(json.dumps({"subscribe": wanted, "position": position}))
            client = FeedClient(socket)
            client.hello = await client.message()
            yield client


class FeedClient:
    """A client that remembers its position."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.hello: dict[str, Any] = {}
        self.position = ""
        self.beats: list[dict[str, Any]] = []

    async def message(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            message: dict[str, Any] = json.loads(await self.socket.recv())
        self.position = message.get("position", message.get("from", ""))
        return message

    async def events(self, count: int) -> list[dict[str, Any]]:
        """Wait for that many events."""
        got: list[dict[str, Any]] = []
        while len(got) < count:
            message = await self.message()
            if message["type"] == "event":
                got.append(message)
            else:
                self.beats.append(message)
        return got

    async def ids(self, count: int) -> list[str]:
        return [message["event"]["event_id"] for message in await self.events(count)]

    async def beat(self) -> dict[str, Any]:
        while True:
            message = await self.message()
            if message["type"] == "heartbeat":
                return message


async def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - the point of this function
            await asyncio.sleep(0.005)


__all__ = ["FEED_TOPICS", "FeedClient", "FeedRig", "scored", "subject", "until", "uploaded"]
