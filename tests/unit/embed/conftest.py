from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters.clock import SystemClock
from adapters.memory.objects import MemoryObjects
from consumers.embed.cases import CaseIndexer, Workbench
from consumers.embed.index import CaseIndex
from consumers.embed.likeness import Embedding, normalised
from pipeline.errors import PoisonError
from schemas.configuration import CaseRegistered
from schemas.images import ImageUploaded
from schemas.subject import ImageRef, Subject, image_id

DECIDED = datetime(2026, 5, 4, 3, 2, tzinfo=UTC)


class FakeEncoder:
    """A vector that follows from the first pixel alone; counts what it embeds."""

    name = "fake:model"
    namespace = "fake-model-000000000001"
    dimension = 8
    close_similarity = 0.5

    def __init__(self) -> None:
        self.embedded = 0

    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        self.embedded += len(pictures)
        rows = [
            np.random.default_rng(int(picture[0, 0, 0])).standard_normal(self.dimension)
            for picture in pictures
        ]
        nothing = np.empty((0, 0), np.float16)
        return [Embedding(normalised(row.astype(np.float32)), nothing) for row in rows]


class FakeLog:
    def __init__(self) -> None:
        self.caught_up = asyncio.Event()

    async def wait_caught_up(self) -> None:
        await self.caught_up.wait()


def decode(data: bytes) -> NDArray[np.uint8]:
    if data.startswith(b"bad"):
        raise PoisonError("corrupt_image", "no picture")
    return np.full((4, 4, 3), data[0], np.uint8)


class Plant:
    """Stores pictures, registers cases, and runs the indexer."""

    def __init__(self) -> None:
        self.objects = MemoryObjects()
        self.encoder = FakeEncoder()
        self.bench = Workbench(self.objects, decode, self.encoder)
        self.clock = SystemClock()
        self.restart()

    def restart(self) -> None:
        """As a new process: nothing in memory, the store as it was."""
        self.log = FakeLog()
        self.index = CaseIndex(self.encoder.dimension, self.encoder.namespace)
        self.indexer = CaseIndexer(self.bench, self.index, clock=self.clock)
        self.indexer.follow(self.log)

    async def store(self, data: bytes) -> ImageRef:
        digest = hashlib.sha256(data).hexdigest()
        key = f"cases/{digest}"
        await self.objects.put(key, data, content_type="image/jpeg")
        return ImageRef(bucket=self.objects.bucket, key=key, sha256=digest, size_bytes=len(data))

    def snapshots(self) -> list[str]:
        stored = self.objects.keys()
        return [key for key in stored if key.startswith("snapshots/")]

    async def case(self, case_id: str, data: bytes, **changes: Any) -> CaseRegistered:
        fields: dict[str, Any] = {
            "event_id": uuid4(),
            "occurred_at": DECIDED,
            "case_id": case_id,
            "product": "housing",
            "image": await self.store(data),
            "defect_type": "scratch",
            "decided_at": DECIDED,
            "action_taken": "reworked",
        }
        return CaseRegistered(**(fields | changes))

    async def upload(self, data: bytes, **changes: Any) -> ImageUploaded:
        ref = await self.store(data)
        subject = Subject(
            image_id=image_id(product="housing", sha256=ref.sha256),
            product="housing",
            captured_at=DECIDED,
            received_at=DECIDED,
            image=ref,
        ).model_copy(update=changes)
        return ImageUploaded(event_id=uuid4(), occurred_at=DECIDED, subject=subject)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def running(self, *, caught_up: bool = True) -> AsyncIterator[None]:
        task = asyncio.create_task(self.indexer.run())
        try:
            if caught_up:
                self.log.caught_up.set()
                await self.until(lambda: not self.indexer.not_ready())
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def plant() -> Plant:
    return Plant()
