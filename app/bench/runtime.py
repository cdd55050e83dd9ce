"""What the worker costs: a no-op stage against a bare aiokafka loop and against FastStream.

All three read the same 900-byte uploads from Apache Kafka, in batches of up to 200, and write an
event for each with the same producer settings, interleaved, on one event loop after the other.
The bare loop passes bytes through; the worker and FastStream decode, check and encode events.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as ClientPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from adapters.clock import SystemClock
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.sink import KafkaSink
from adapters.kafka.source import GroupMember, KafkaOpenSource
from app.garbage import calm_collector
from app.roles import QUICK_WORK
from pipeline.errors import ConfigError
from pipeline.telemetry import MetricName, NullTelemetry
from pipeline.worker import Worker
from schemas.codec import encode
from schemas.embeddings import ImageEmbedded
from schemas.event import Event, derived_event_id, origin_of, uploaded_event_id
from schemas.images import ImageUploaded
from schemas.subject import ImageRef, Subject

_IN, _OUT = "images.uploaded", "images.embedded"
_PARTITIONS = 6
_BATCH = 200
_VALUE_BYTES = 900
_LIMIT_S = 180.0
_PRODUCER: dict[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    "linger_ms": 0,
    "max_batch_size": 256 * 1024,
    "compression_type": "lz4",
}
# What the issue asks of the worker: its rate divided by each of the others.
FLOORS = {"bare": 0.30, "faststream": 1.4}


def upload(number: int) -> ImageUploaded:
    """An upload of about 900 bytes from one of 24 stations."""
    now = datetime.now(UTC)
    sha256 = f"{number:064x}"
    subject = Subject(
        image_id=f"{number:032x}",
        product="CELL-MONO",
        source="camera-7",
        station=f"ST-{number % 24:02d}",
        line="L1",
        part_id=f"P-{number:08d}",
        lot_id="LOT-2026-11",
        view="front",
        captured_at=now,
        received_at=now,
        image=ImageRef(
            bucket="plant",
            key=f"images/{sha256}",
            sha256=sha256,
            size_bytes=60_000,
            width=300,
            height=300,
            content_type="image/png",
        ),
    )
    return ImageUploaded(
        event_id=uploaded_event_id(subject.image_id), occurred_at=now, subject=subject
    )


def embedded(event: Any) -> ImageEmbedded:
    """What the no-op stage makes of an upload."""
    return ImageEmbedded(
        event_id=derived_event_id("embed", event.event_id),
        occurred_at=event.occurred_at,
        subject=event.subject,
        stage="embed",
        trigger_event_id=event.event_id,
        model="none",
        index_version="0",
        **origin_of(event),
    )


class NoOpStage:
    """Computes nothing."""

    name = "embed"

    async def load(self, event: Event) -> Event:
        """Return the event."""
        return event

    def infer(self, items: Sequence[Event]) -> Sequence[Event]:
        """Return the items."""
        return items

    async def save(self, event: Event, _result: Event) -> Event:
        """Return the derived event."""
        return embedded(event)


class _Counter(NullTelemetry):
    """Notes when the first record came and when the last one was settled."""

    def __init__(self, records: int) -> None:
        self._left = records
        self._started = 0.0
        self.seconds: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def count(self, name: MetricName, n: float = 1, **labels: str) -> None:
        """Follow the two counters that matter."""
        if name == "records_polled":
            self._started = self._started or time.perf_counter()
        elif name == "events_settled":
            self._left -= int(n)
            if self._left <= 0 and not self.seconds.done():
                self.seconds.set_result(time.perf_counter() - self._started)
        elif name == "dead_letters" and not self.seconds.done():
            self.seconds.set_exception(AssertionError(f"an event was buried: {labels}"))


async def run_worker(servers: str, records: int) -> float:
    """Seconds that the real worker needs."""
    connection = KafkaConnection(servers)
    sink = KafkaSink(connection)
    counter = _Counter(records)
    worker = Worker(
        NoOpStage(),
        KafkaOpenSource(connection, GroupMember(f"bench-{uuid4().hex}", (_IN,))),
        sink,
        SystemClock(),
        counter,
        replace(QUICK_WORK, batch_size=_BATCH),  # as the record role, which computes nothing either
    )
    task = asyncio.create_task(worker.run())
    try:
        waiting: list[asyncio.Future[Any]] = [task, counter.seconds]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()  # it ended too early: this raises
        return await counter.seconds
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await sink.close()


async def run_bare(servers: str, records: int) -> float:
    """Seconds of the tuned loop: pipelined sends, one explicit commit per batch."""
    consumer = AIOKafkaConsumer(
        _IN,
        bootstrap_servers=servers,
        group_id=f"bench-{uuid4().hex}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=50,
    )
    producer = AIOKafkaProducer(bootstrap_servers=servers, **_PRODUCER)
    await consumer.start()
    await producer.start()
    try:
        started, done = 0.0, 0
        while done < records:
            batches = await consumer.getmany(timeout_ms=500, max_records=_BATCH)
            started = started or (time.perf_counter() if batches else 0.0)
            futures = []
            positions = {}
            for place, rows in batches.items():
                futures += [
                    await producer.send(_OUT, row.value, row.key, headers=list(row.headers))
                    for row in rows
                ]
                positions[place] = rows[-1].offset + 1
            await asyncio.gather(*futures)
            if positions:
                await consumer.commit(positions)
            done += len(futures)
        return time.perf_counter() - started
    finally:
        await consumer.stop()
        await producer.stop()


async def run_faststream(servers: str, records: int) -> float:
    """Seconds of FastStream's batch subscriber: acknowledged only after its outputs are."""
    from faststream.kafka import KafkaBroker, KafkaMessage  # noqa: PLC0415 - bench-only package
    from faststream.middlewares import AckPolicy  # noqa: PLC0415 - as above

    broker = KafkaBroker(servers, apply_types=False, logger=None, **_PRODUCER)
    finished: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    state = {"done": 0, "started": 0.0}

    async def keep_bytes(message: KafkaMessage) -> Any:
        return message.raw_message

    @broker.subscriber(
        _IN,
        batch=True,
        group_id=f"bench-{uuid4().hex}",
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
        max_records=_BATCH,
        fetch_max_wait_ms=50,
        isolation_level="read_committed",
        decoder=keep_bytes,
    )
    async def handle(rows: Any) -> None:
        state["started"] = state["started"] or time.perf_counter()
        futures = []
        for row in rows:
            event = ImageUploaded.model_validate_json(row.value)
            trace = next((value for name, value in row.headers if name == "traceparent"), b"")
            message = encode(embedded(event), source="/bench", traceparent=trace.decode())
            headers = {name: value.decode() for name, value in message.headers}
            futures.append(
                await broker.publish(
                    message.value, _OUT, key=message.key, headers=headers, no_confirm=True
                )
            )
        await asyncio.gather(*futures)
        state["done"] += len(rows)
        if state["done"] >= records and not finished.done():
            finished.set_result(time.perf_counter() - state["started"])

    await broker.start()
    try:
        return await finished
    finally:
        await broker.stop()


SYSTEMS: dict[str, Callable[[str, int], Awaitable[float]]] = {
    "worker": run_worker,
    "bare": run_bare,
    "faststream": run_faststream,
}


class Run(NamedTuple):
    """One system, one pass over all records."""

    per_s: float
    cpu_us: float
    other_load: float


async def _measure(system: str, servers: str, records: int) -> Run:
    """Run one system; CPU is this process's, other load is what the rest of the machine took."""
    process = psutil.Process()
    wall, own, busy = time.perf_counter(), _seconds(process.cpu_times()), _busy_seconds()
    async with asyncio.timeout(_LIMIT_S):
        seconds = await SYSTEMS[system](servers, records)
    own = _seconds(process.cpu_times()) - own
    others = _busy_seconds() - busy - own
    capacity = (time.perf_counter() - wall) * (psutil.cpu_count() or 1)
    gc.collect()
    return Run(records / seconds, own / records * 1e6, max(0.0, others) / capacity)


def _seconds(times: Any) -> float:
    return float(times.user + times.system)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


async def bench_runtime(bootstrap: str, records: int = 50_000, rounds: int = 5) -> dict[str, Any]:
    """Measure records per second; returns medians, ratios and whether they pass.

    A ratio is the median of the rounds' ratios: what disturbs one round disturbs all its systems.
    Their order changes from round to round. The first round warms up and does not count.

    Raises:
        ConfigError: the cluster already holds uploads: the bench writes its own.
    """
    await _fill(bootstrap, records)
    thresholds = gc.get_threshold()
    calm_collector()  # as every role does
    found: list[dict[str, Run]] = []
    try:
        for number in range(rounds + 1):
            names = list(SYSTEMS)
            turn = number % len(names)
            order = names[turn:] + names[:turn]
            found.append({name: await _measure(name, bootstrap, records) for name in order})
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
    return _summary(found[1:], records)


def _summary(found: Sequence[dict[str, Run]], records: int) -> dict[str, Any]:
    ratios = {
        name: statistics.median(one["worker"].per_s / one[name].per_s for one in found)
        for name in FLOORS
    }
    runs = {name: [one[name] for one in found] for name in SYSTEMS}
    return {
        "records": records,
        "rounds": len(found),
        "rates": {name: [round(run.per_s) for run in of] for name, of in runs.items()},
        "median_per_s": {
            name: round(statistics.median(run.per_s for run in of)) for name, of in runs.items()
        },
        "cpu_us_per_record": {
            name: round(statistics.median(run.cpu_us for run in of), 1) for name, of in runs.items()
        },
        "other_load_percent": {
            name: [round(run.other_load * 100) for run in of] for name, of in runs.items()
        },
        "worker_to": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "floors": FLOORS,
        "passed": all(ratios[name] >= floor for name, floor in FLOORS.items()),
    }


async def _fill(servers: str, records: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        known = set(await admin.list_topics())
        new = [NewTopic(name, _PARTITIONS, 1) for name in (_IN, _OUT) if name not in known]
        if new:
            await admin.create_topics(new)
    finally:
        await admin.close()
    await _refuse_used_topic(servers)
    producer = AIOKafkaProducer(bootstrap_servers=servers, **_PRODUCER)
    await producer.start()
    try:
        futures = []
        for number in range(records):
            message = encode(upload(number), source="/bench", traceparent="00-" + "a" * 52)
            assert message.value is not None
            value = message.value.ljust(_VALUE_BYTES)
            futures.append(
                await producer.send(_IN, value, message.key, headers=list(message.headers))
            )
        await asyncio.gather(*futures)
    finally:
        await producer.stop()


async def _refuse_used_topic(servers: str) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=servers)
    await consumer.start()
    try:
        places = [ClientPartition(_IN, index) for index in range(_PARTITIONS)]
        if any((await consumer.end_offsets(places)).values()):
            raise ConfigError(
                f"{_IN} at {servers} holds records: this bench fills it; "
                "unset LINESIDE_KAFKA__BOOTSTRAP_SERVERS, it then starts a broker of its own"
            )
    finally:
        await consumer.stop()


def print_runtime(result: dict[str, Any]) -> None:
    """Print what was measured, for people."""
    lines = [f"{result['records']} records, {result['rounds']} rounds, interleaved; medians"]
    for name, rate in result["median_per_s"].items():
        lines.append(
            f"  {name:<11}{rate:>7} records/s {result['cpu_us_per_record'][name]:>6} µs CPU"
            f"   rounds {result['rates'][name]}"
        )
    for name, ratio in result["worker_to"].items():
        lines.append(f"  worker / {name:<11}{ratio:>6.2f}   (at least {result['floors'][name]})")
    lines.append("  load by others, the broker included, % of the machine by round:")
    lines += [f"    {name:<11}{load}" for name, load in result["other_load_percent"].items()]
    sys.stdout.write("\n".join(lines) + "\n")
