"""The hops of an image and nothing else, in one process: what this machine can do at best.

Upload, hash, file with fsync, a row in SQLite, Kafka, a worker that reads the file, Kafka,
websocket. No outbox, no journal, no checks, no model, no other stage: nothing of what keeps an
image from being lost. `bench latency` runs it first, since machines differ by a factor of three.

    python -m app.bench.bare_trip PORT BOOTSTRAP FOLDER
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

import uvicorn
import websockets
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from fastapi import FastAPI, Form, UploadFile, WebSocket
from sqlalchemy import Connection, text

from adapters.embedded_broker import EmbeddedBroker
from adapters.sql.engine import SqliteDatabase, parse_url
from app.bench.camera import Camera
from app.up import free_port

_UPLOADED, _SCORED = "bare.uploaded", "bare.scored"
# As long as a real event.
_PADDING = "x" * 800
_WARM_UP = 10
_START_S = 60.0


async def time_bare_trips(
    folder: Path, pictures: Sequence[bytes], *, rate: float, count: int
) -> list[float]:
    """Return how long bare trips take from sending to the websocket, milliseconds each.

    Args:
        folder: an empty folder for what is written.
        pictures: what is sent, in turn.
        rate: images a second.
        count: images that are counted; ten more go before them.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    port = free_port()
    async with EmbeddedBroker(folder / "kafka") as broker:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.bench.bare_trip",
            str(port), broker.bootstrap_servers, str(folder),
        )  # fmt: skip
        try:
            feed = await _connected(f"ws://127.0.0.1:{port}/feed", process)
            async with feed, Camera(f"http://127.0.0.1:{port}") as camera:
                trips = await _send(camera, feed, pictures, rate=rate, count=count + _WARM_UP)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    return trips[_WARM_UP:]


async def _connected(
    address: str, process: asyncio.subprocess.Process
) -> websockets.ClientConnection:
    async with asyncio.timeout(_START_S):
        while process.returncode is None:
            try:
                return await websockets.connect(address, compression=None, proxy=None)
            except OSError:
                await asyncio.sleep(0.1)  # it is still importing
    raise RuntimeError(f"the bare trip's process ended with {process.returncode}")


async def _send(
    camera: Camera,
    feed: websockets.ClientConnection,
    pictures: Sequence[bytes],
    *,
    rate: float,
    count: int,
) -> list[float]:
    trips = []
    began = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        request = camera.prepare(
            "/images", {"part_id": str(number)}, pictures[number % len(pictures)]
        )
        await camera.ready()
        sent = time.monotonic()
        answered = asyncio.create_task(camera.send(request))
        async with asyncio.timeout(_START_S):
            await feed.recv()
        trips.append(1000 * (time.monotonic() - sent))
        await answered
    return trips


class _Trip:
    """The hops, each as short as it can be."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self._bootstrap = bootstrap
        self._folder = folder
        self._database = SqliteDatabase(parse_url(f"sqlite:///{folder / 'bare.db'}"))
        self._screens: set[WebSocket] = set()

    @asynccontextmanager
    async def run(self, _app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            self._producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all")
            stack.push_async_callback(self._database.close)
            admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
            await admin.start()
            await admin.create_topics([NewTopic(name, 3, 1) for name in (_UPLOADED, _SCORED)])
            await admin.close()
            await self._producer.start()
            stack.push_async_callback(self._producer.stop)
            await self._database.write(
                lambda connection: connection.execute(text("CREATE TABLE rows (value TEXT)"))
            )
            tasks = []
            for topic, work in ((_UPLOADED, self._judge), (_SCORED, self._show)):
                consumer = AIOKafkaConsumer(
                    topic, bootstrap_servers=self._bootstrap, auto_offset_reset="earliest"
                )
                await consumer.start()
                stack.push_async_callback(consumer.stop)
                tasks.append(asyncio.create_task(work(consumer)))
            yield
            for task in tasks:
                task.cancel()

    async def upload(self, part_id: Annotated[str, Form()], file: UploadFile) -> dict[str, str]:
        data = await file.read()
        path = self._folder / hashlib.sha256(data).hexdigest()
        await asyncio.to_thread(_store, path, data)
        event = json.dumps({"part_id": part_id, "path": str(path), "padding": _PADDING})

        def insert(connection: Connection) -> None:
            connection.execute(text("INSERT INTO rows VALUES (:value)"), {"value": event})

        await self._database.write(insert)
        await self._producer.send_and_wait(_UPLOADED, event.encode(), key=part_id.encode())
        return {"part_id": part_id}

    async def _judge(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            event = json.loads(record.value)
            await asyncio.to_thread(Path(event["path"]).read_bytes)
            await self._producer.send_and_wait(_SCORED, record.value, key=record.key)

    async def _show(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            for screen in tuple(self._screens):
                await screen.send_text(record.value.decode())

    async def watch(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self._screens.add(websocket)
        async for _ in websocket.iter_text():
            pass
        self._screens.discard(websocket)


def _store(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    """Serve until killed."""
    port, bootstrap, folder = sys.argv[1:]
    trip = _Trip(bootstrap, Path(folder))
    app = FastAPI(lifespan=trip.run)
    app.post("/images")(trip.upload)
    app.websocket("/feed")(trip.watch)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
