"""Well-behaved senders: cameras that keep each picture until it is acknowledged."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer

from adapters.objects import Objects
from app.chaos.facts import Sent
from app.chaos.poison import Planted, Poison, Upload
from app.chaos.product import PRODUCT
from pipeline.errors import LinesideError
from schemas.message import Position

STATIONS = 4
_PATIENCE_S = 20.0
_LONGEST_WAIT_S = 5.0
_POISON_EVERY_S = 4.0
_REVIEW_EVERY = 12
# Lots, not a metronome: stages see several at once now and then. The mean is one.
_GAPS = (0.2, 0.2, 0.5, 1.3, 1.8, 2.0)


@dataclass(slots=True)
class Book:
    """What the senders did and were told.

    `asked` counts good pictures whose time came; `strange` are answers that no interface names;
    `acted` the event ids of reviews that were answered with 201.
    """

    asked: int = 0
    sent: list[Sent] = field(default_factory=list)
    retries: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)
    planted: dict[Position, dict[str, str]] = field(default_factory=dict)
    acted: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    in_flight: int = 0

    @property
    def good(self) -> int:
        """Good pictures that were acknowledged."""
        return sum(not one.buries for one in self.sent)


@dataclass(slots=True)
class Station:
    """One camera: sends its pictures one after the other, each until it is acknowledged."""

    name: str
    http: httpx.AsyncClient
    book: Book
    chance: random.Random
    _count: int = 0

    async def run(self, pictures: Sequence[bytes], period_s: float, over: asyncio.Event) -> None:
        """Take a picture every `period_s` until it is over, then catch up.

        What it could not send in its time goes as soon as it can: nothing is thrown away.
        """
        due = time.monotonic() + self.chance.uniform(0, period_s)
        gaps: list[float] = []
        while not over.is_set():
            if await happens_within(over, due - time.monotonic()):
                return
            self.book.asked += 1
            await self.send(Upload("good", self.chance.choice(pictures), None, {}))
            gaps = gaps or self.chance.sample(_GAPS, len(_GAPS))
            due += period_s * gaps.pop()

    async def send(self, upload: Upload) -> str | None:
        """Send until it is answered for good; returns the image id, None when refused."""
        self._count += 1
        name = f"{self.name}-{self._count}"
        fields = {
            "product": upload.product or PRODUCT,
            "station": self.name,
            "part_id": name,
            "captured_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        headers = {"Idempotency-Key": name}
        began = time.monotonic()
        while True:
            answer = await self._try(fields, headers, upload)
            if answer is not None:
                break
        self.book.waits_s.append(time.monotonic() - began)
        return self._note(upload, answer)

    async def _try(
        self, fields: dict[str, str], headers: dict[str, str], upload: Upload
    ) -> httpx.Response | None:
        """Return the answer, None when it must be sent again; waits as the server asks."""
        self.book.in_flight += 1
        try:
            answer = await self.http.post(
                "/v1/images", data=fields, headers=headers, files={"file": ("x.jpg", upload.data)}
            )
        except httpx.TransportError as error:
            self.book.retries[type(error).__name__] += 1
            await asyncio.sleep(self.chance.uniform(0.2, 1.0))
            return None
        finally:
            self.book.in_flight -= 1
        if answer.status_code < 429:
            return answer
        self.book.retries[str(answer.status_code)] += 1
        asked = answer.headers.get("Retry-After")
        if answer.status_code not in {429, 503, 507} or asked is None:
            self.book.strange.append(f"{answer.status_code}: {answer.text[:300]}")
        await asyncio.sleep(min(float(asked or 1), _LONGEST_WAIT_S))
        return None

    def _note(self, upload: Upload, answer: httpx.Response) -> str | None:
        told = answer.json()
        if upload.refused is not None:
            said = (answer.status_code, told.get("slug"))
            self.book.refused[upload.kind] += 1
            if said != upload.refused:
                self.book.strange.append(f"{upload.kind} was answered with {said}")
            return None
        if answer.status_code != 202:
            self.book.strange.append(f"{upload.kind}: {answer.status_code} {answer.text[:300]}")
            return None
        image_id = str(told["image_id"])
        digest = hashlib.sha256(upload.data).hexdigest()
        sent = Sent(image_id, digest, self.name, self._count, dict(upload.buries))
        self.book.sent.append(sent)
        return image_id


@dataclass(slots=True)
class Saboteur:
    """Plants poison now and then, past the proxies: it must get there to count."""

    station: Station
    producer: AIOKafkaProducer
    store: Objects
    partitions: int

    async def run(self, poison: Iterator[Poison], over: asyncio.Event) -> None:
        """Plant until it is over."""
        while not over.is_set():
            await self.plant(next(poison))
            await happens_within(over, self.station.chance.uniform(0.5, 1.5) * _POISON_EVERY_S)

    async def plant(self, poison: Poison) -> None:
        """Plant one, however long it takes."""
        if isinstance(poison, Upload):
            await self.station.send(poison)
        elif isinstance(poison, Planted):
            await self._plant_event(poison)
        else:
            await self._publish(poison.topic, poison.value, poison.buries)

    async def _plant_event(self, poison: Planted) -> None:
        if poison.stored is not None:
            await self._store(poison.image["key"], poison.stored)
        subject = {
            "product": poison.product or PRODUCT,
            "station": self.station.name,
            "captured_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "image": {"bucket": self.store.bucket, **poison.image},
        }
        value = json.dumps({"subject": subject}).encode()
        await self._publish("images.uploaded", value, poison.buries)

    async def _store(self, key: str, data: bytes) -> None:
        while True:
            try:
                await self.store.put(key, data, content_type="image/jpeg")
            except LinesideError:
                await asyncio.sleep(0.5)
            else:
                return

    async def _publish(self, topic: str, value: bytes | None, buries: Any) -> None:
        partition = self.station.chance.randrange(self.partitions)
        key = self.station.name.encode()
        sent = await self.producer.send_and_wait(topic, value, key=key, partition=partition)
        place = Position(sent.topic, sent.partition, sent.offset)
        self.station.book.planted[place] = dict(buries)


async def review(http: httpx.AsyncClient, book: Book, image_id: str, key: str) -> None:
    """Confirm a defect as an operator does, and register it as a case, until it is answered."""
    body = {"decision": "ng", "defect_type": "scratch", "register_as_case": True}
    while True:
        try:
            answer = await http.post(
                f"/v1/images/{image_id}/review", json=body, headers={"Idempotency-Key": key}
            )
        except httpx.TransportError:
            await asyncio.sleep(0.5)
            continue
        if answer.status_code == 201:
            book.acted.append(str(answer.json()["event_id"]))
            return
        if answer.status_code not in {429, 503, 507}:
            book.strange.append(f"review: {answer.status_code} {answer.text[:300]}")
            return
        await asyncio.sleep(float(answer.headers.get("Retry-After", "1")))


async def review_some(
    http: httpx.AsyncClient, book: Book, is_wanted: Callable[[Sent], bool], over: asyncio.Event
) -> None:
    """Review one in `_REVIEW_EVERY` uploads until it is over."""
    done = 0
    while not await happens_within(over, 0.5):
        wanted = [one for one in book.sent if is_wanted(one)]
        while done * _REVIEW_EVERY < len(wanted) and not over.is_set():
            one = wanted[done * _REVIEW_EVERY]
            done += 1
            await review(http, book, one.image_id, f"review-{one.image_id}")


async def happens_within(event: asyncio.Event, limit_s: float) -> bool:
    """Wait for an event, `limit_s` at most; returns whether it has happened."""
    try:
        await asyncio.wait_for(event.wait(), max(0.0, limit_s))
    except TimeoutError:
        return False
    return True


def open_http(url: str) -> httpx.AsyncClient:
    """Return a client with a camera's patience."""
    return httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S, trust_env=False)
