"""A running plant, seen from its HTTP side and from its log, for tests that feed it bad things."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from adapters.objects import Objects
from pipeline.ports import EventSource
from schemas.codec import decode
from schemas.dead_letters import DeadLetter
from schemas.message import Position
from tests.plant import PRODUCT, draw_part

STATION = "press-1"
DEADLINE_S = 30.0


@dataclass
class Plant:
    """A system that runs, seen from all sides."""

    http: httpx.AsyncClient
    producer: AIOKafkaProducer
    store: Objects
    graves: EventSource
    state_dir: Path
    letters: list[DeadLetter] = field(default_factory=list)
    parts: int = 0

    async def send(self, data: bytes, *, product: str = PRODUCT) -> httpx.Response:
        """Upload a file as a camera does; always called .jpg."""
        self.parts += 1
        fields = {"product": product, "station": STATION, "part_id": f"part-{self.parts}"}
        return await self.http.post("/v1/images", data=fields, files={"file": ("x.jpg", data)})

    async def accepted(self, data: bytes) -> str:
        answer = await self.send(data)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["image_id"])

    async def neighbour(self) -> str:
        """A good part, on the same partition as everything else here."""
        return await self.accepted(draw_part(70_000 + self.parts))

    async def publish(
        self, value: bytes | None, *, topic: str = "images.uploaded", partition: int | None = None
    ) -> Position:
        """Put a record into the log, past every check of ours."""
        key = None if partition is not None else STATION.encode()
        sent = await self.producer.send_and_wait(topic, value, key=key, partition=partition)
        return Position(sent.topic, sent.partition, sent.offset)

    async def stored(self, data: bytes) -> dict[str, Any]:
        """Put bytes where a camera that speaks S3 would; returns the reference for an event."""
        sha256 = hashlib.sha256(data).hexdigest()
        key = f"images/{sha256}"
        await self.store.put(key, data, content_type="image/jpeg")
        bucket = self.store.bucket
        return {"bucket": bucket, "key": key, "sha256": sha256, "size_bytes": len(data)}

    async def settled(self, identity: str) -> dict[str, Any]:
        """Wait until every stage has answered for an image."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            answer = await self.http.get(f"/v1/images/{identity}")
            if answer.status_code == 200 and answer.json()["status"] != "pending":
                return dict(answer.json())
            assert time.monotonic() < deadline, answer.text
            await asyncio.sleep(0.05)

    async def buried(self, place: Position, stages: Collection[str]) -> dict[str, DeadLetter]:
        """Wait for the dead letters of a record, by stage."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            found = {letter.stage: letter for letter in self.letters if _origin(letter) == place}
            if found.keys() >= set(stages):
                return found
            assert time.monotonic() < deadline, f"{place}: dead letters only of {sorted(found)}"
            for record in await self.graves.poll(100, 0.2):
                letter = decode(record)
                assert isinstance(letter, DeadLetter)
                assert record.topic == f"dead-letters.{letter.stage}"
                self.letters.append(letter)

    async def scraped(self) -> Counter[tuple[str, ...]]:
        """Scrape every role: how often each counter was counted, by its name and labels."""
        pages = []
        for note in sorted((self.state_dir / "roles").glob("*.json")):
            address = json.loads(note.read_text("utf-8"))["health_url"]
            pages.append((await self.http.get(f"{address}/metrics")).text)
        found: Counter[tuple[str, ...]] = Counter()
        for page in pages:
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    if family.type == "counter" and sample.name.endswith("_total"):
                        key = (family.name, *(sample.labels[k] for k in sorted(sample.labels)))
                        found[key] += int(sample.value)
        return found

    def tables(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the tables with a client of the test's own."""
        with closing(sqlite3.connect(self.state_dir / "lineside.db")) as connection:
            return connection.execute(query).fetchall()

    async def unharmed(self, neighbours: Sequence[str]) -> None:
        for identity in neighbours:
            view = await self.settled(identity)
            assert view["status"] == "complete"
            assert view["verdict"] in {"OK", "NG", "REVIEW"}
            assert view["embedded"]
            assert view["dead_letters"] == []


def _origin(letter: DeadLetter) -> Position:
    origin = letter.origin
    return Position(origin.topic, origin.partition, origin.offset)
