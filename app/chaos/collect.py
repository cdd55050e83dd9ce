"""Facts after a run, read by clients of its own: the log, the tables, the index, the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as ClientPartition
from sqlalchemy import Table, create_engine, select
from sqlalchemy.ext.asyncio import create_async_engine

from adapters.kafka.connection import KafkaConnection
from adapters.sql.tables import dead_letters, images, inspections, reviews
from app.chaos.facts import Entry, Row, Sent
from app.chaos.product import PRODUCT
from pipeline.errors import LinesideError
from schemas.codec import MalformedEventError, decode
from schemas.event import Event
from schemas.message import Record, TopicPartition

_READ_LIMIT_S = 120.0
_INDEX_LIMIT_S = 30.0
_COLUMNS: Mapping[Table, tuple[str, ...]] = {
    images: ("upload_event_id", "image_id"),
    inspections: (
        "event_id", "image_id", "type", "stage", "trigger_event_id", "verdict",
    ),
    dead_letters: ("event_id", "image_id"),
    reviews: ("event_id", "image_id"),
}  # fmt: skip


async def read_log(connection: KafkaConnection, ends: Mapping[TopicPartition, int]) -> list[Entry]:
    """Read every topic from its start up to `ends`.

    Raises:
        TimeoutError: the log does not come within two minutes.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=connection.bootstrap_servers, enable_auto_commit=False
    )
    places = [ClientPartition(*place) for place, end in ends.items() if end]
    entries: list[Entry] = []
    async with asyncio.timeout(_READ_LIMIT_S), consumer:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        waiting = set(places)
        while waiting:
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                entries += [_entry(record) for record in batch]
            # Positions, not records: a compacted log has holes at its end.
            for place in tuple(waiting):
                if await consumer.position(place) >= ends[TopicPartition(*place)]:
                    waiting.discard(place)
    return sorted(entries, key=lambda entry: entry.place)


def _entry(found: Any) -> Entry:
    key = None if found.key is None else bytes(found.key)
    record = Record(
        found.topic, found.partition, found.offset, key, found.value, (), found.timestamp
    )
    event: Event | None
    try:
        event = decode(record)
    except MalformedEventError:
        event = None
    name = "" if key is None else key.decode("utf-8", "replace")
    return Entry(found.topic, found.partition, found.offset, name, event)


async def read_rows(database_url: str) -> list[Row]:
    """Read the tables of results over a connection of its own."""
    rows: list[Row] = []
    if database_url.startswith("sqlite"):
        engine = create_engine(database_url.replace("+aiosqlite", ""))
        try:
            with engine.connect() as connection:
                for table in _COLUMNS:
                    rows += _as_rows(table, connection.execute(_query(table)).all())
        finally:
            engine.dispose()
        return rows
    asynchronous = create_async_engine(database_url)
    try:
        async with asynchronous.connect() as connected:
            for table in _COLUMNS:
                rows += _as_rows(table, (await connected.execute(_query(table))).all())
    finally:
        await asynchronous.dispose()
    return rows


def _query(table: Table) -> Any:
    return select(*(table.c[name] for name in _COLUMNS[table]))


def _as_rows(table: Table, found: Sequence[Any]) -> list[Row]:
    return [Row(table.name, *row) for row in found]


async def read_statuses(
    http: httpx.AsyncClient, sent: Sequence[Sent], limit_s: float
) -> dict[str, str]:
    """Ask for every image until none is pending, at most `limit_s`; returns image id → status."""
    statuses: dict[str, str] = {}
    deadline = time.monotonic() + limit_s
    waiting = [one.image_id for one in sent]
    while waiting and time.monotonic() < deadline:
        for image_id in waiting:
            statuses[image_id] = await _status(http, image_id)
        waiting = [i for i in waiting if statuses[i] in {"pending", "missing"}]
        if waiting:
            await asyncio.sleep(0.5)
    return statuses


async def _status(http: httpx.AsyncClient, image_id: str) -> str:
    try:
        answer = await http.get(f"/v1/images/{image_id}")
    except httpx.TransportError:
        return "pending"
    if answer.status_code == 404:
        return "missing"
    return str(answer.json()["status"]) if answer.status_code == 200 else "pending"


async def read_index(url: str, picture: bytes, wanted: int) -> list[str]:
    """Return the case ids of the search index, one a vector, by looking for everything.

    The index follows the log by itself: it gets half a minute to reach `wanted` cases. A vector
    that no search can name is called `unnamed`.

    Raises:
        LinesideError: the search does not answer.
    """
    asked = {"k": "100", "min_similarity": "-1", "product": PRODUCT}
    deadline = time.monotonic() + _INDEX_LIMIT_S
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        while True:
            status = await http.get("/v1/search/status")
            vectors = int(status.json()["cases"].get(PRODUCT, 0)) if status.is_success else 0
            if vectors == wanted or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        answer = await http.post("/v1/search", data=asked, files={"file": ("x.jpg", picture)})
    if answer.status_code != 200 or status.status_code != 200:
        raise LinesideError(f"the search answers {answer.status_code}: {answer.text[:300]}")
    named = [str(row["case_id"]) for row in answer.json()["results"]]
    return named + ["unnamed"] * (vectors - len(named))
