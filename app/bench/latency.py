"""How long an image takes from the sender to the operator's screen, less the time inside infer.

The whole system runs as `lineside up` runs it: every role a process of its own on this machine.
Hops are split by clock readings that the events carry anyway, all of one machine. Before it the
bare hops run (bare_trip.py), so that figures of different machines can be compared.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import websockets

from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from app.bench.bare_trip import time_bare_trips
from app.bench.camera import Camera
from app.cli.output import table
from app.client import Client
from app.demo.summary import percentile
from app.samples import bearing
from app.settings import Settings, WebSettings
from app.up import free_port, running_system

Json = dict[str, Any]

P50_LIMIT_MS = 25.0
P95_LIMIT_MS = 50.0
_PRODUCT = "bench"
_NORMALS = 40
_WARM_UP = 10
_TIMEOUT_S = 60.0
_BARE_IMAGES = 50


@dataclass
class Trip:
    """One image's clock readings, Unix milliseconds."""

    sent_ms: float
    received_ms: float | None = None
    uploaded: Json | None = None
    scored: Json | None = None
    log_ms: dict[str, float] = field(default_factory=dict)

    @property
    def infer_ms(self) -> float:
        """Time inside the model, as the stage measured it."""
        assert self.scored
        return float(self.scored["timings_ms"]["infer"])

    @property
    def total_ms(self) -> float:
        """Send to receipt, less infer."""
        assert self.received_ms
        return self.received_ms - self.sent_ms - self.infer_ms


def _now_ms() -> float:
    return time.time() * 1000


def _unix_ms(moment: str) -> float:
    return datetime.fromisoformat(moment).astimezone(UTC).timestamp() * 1000


async def bench_latency(folder: Path, *, rate: float = 5.0, count: int = 100) -> Json:
    """Send `count` images at `rate` a second and time them; returns figures and the split by hop.

    Args:
        folder: an empty folder for the system's state.
        rate: images a second.
        count: images that are counted; ten more go before them.
    """
    load_before = os.getloadavg()[0]
    pictures = await asyncio.to_thread(_draw, range(1000, 1020))
    bare = await time_bare_trips(folder / "bare", pictures, rate=rate, count=_BARE_IMAGES)
    settings = Settings(state_dir=folder / "state", web=WebSettings(port=free_port()))
    async with running_system(settings) as running:
        await asyncio.to_thread(_teach, running.url)
        trips: dict[str, Trip] = {}
        async with _watching(running.url, trips):
            await _send(running.url, pictures, trips, rate=rate, count=count + _WARM_UP)
            await _all_received(trips, count + _WARM_UP)
        await _read_log(running.bootstrap_servers, trips)
    ordered = sorted(trips.values(), key=lambda trip: trip.sent_ms)[_WARM_UP:]
    return _figures(ordered, rate=rate, load_before=load_before, bare=bare)


def _draw(seeds: Sequence[int]) -> list[bytes]:
    """Return JPEGs of some 70 kB."""
    import cv2  # noqa: PLC0415 - only where pictures are drawn

    def draw(seed: int) -> bytes:
        bgr = cv2.cvtColor(bearing.draw(None, seed).image, cv2.COLOR_RGB2BGR)
        return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 80])[1])

    return [draw(seed) for seed in seeds]


def _teach(url: str) -> None:
    """Set a product up over HTTP."""
    normals = _draw(range(_NORMALS))
    with Client(url) as client:
        client.put_product(
            _PRODUCT, display_name="bench", policy={"anomaly": "auto", "report": "on_request"}
        )
        path = f"/v1/products/{_PRODUCT}/normals"
        for start in range(0, _NORMALS, 8):
            parts = [("file", (f"{n}.jpg", normals[n])) for n in range(start, start + 8)]
            client.call("POST", path, files=parts)
        job = client.build_bank(_PRODUCT)
        client.activate_bank(_PRODUCT, str(job["version"]))


@asynccontextmanager
async def _watching(url: str, trips: dict[str, Trip]) -> AsyncIterator[None]:
    """Note what arrives on the feed; entered once the feed has answered."""
    listening = asyncio.Event()
    watching = asyncio.create_task(_watch(url, trips, listening))
    try:
        await asyncio.wait_for(listening.wait(), 30)
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _watch(url: str, trips: dict[str, Trip], listening: asyncio.Event) -> None:
    address = url.replace("http", "ws", 1) + "/v1/feed"
    async with websockets.connect(address, compression=None, proxy=None) as feed:
        await feed.send(
            json.dumps({"subscribe": {"topics": ["images.scored"]}, "position": "latest"})
        )
        async for text in feed:
            now = _now_ms()
            message = json.loads(text)
            listening.set()
            if message["type"] == "event":
                trip = trips.get(message["event"]["subject"]["part_id"])
                if trip and trip.received_ms is None:
                    trip.received_ms = now
                    trip.scored = message["event"]


async def _send(
    url: str, pictures: Sequence[bytes], trips: dict[str, Trip], *, rate: float, count: int
) -> None:
    async with Camera(url) as camera:
        began = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            part = f"bench-{number}"
            fields = {"product": _PRODUCT, "part_id": part, "station": "bench"}
            request = camera.prepare("/v1/images", fields, pictures[number % len(pictures)])
            await camera.ready()
            trips[part] = Trip(_now_ms())
            await camera.send(request)


async def _all_received(trips: Mapping[str, Trip], count: int) -> None:
    async with asyncio.timeout(_TIMEOUT_S):
        # `_watch` fills the trips.
        while sum(trip.received_ms is not None for trip in trips.values()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _read_log(bootstrap: str, trips: Mapping[str, Trip]) -> None:
    """Add the broker's append times and the upload events."""
    missing = len(trips) * 2
    open_reader = KafkaOpenReader(KafkaConnection(bootstrap))
    async with open_reader(("images.uploaded", "images.scored")) as reader, asyncio.timeout(30):
        while missing > 0:
            for record in await reader.poll(500, 0.2):
                event = json.loads(record.value or b"{}")
                trip = trips.get(event.get("subject", {}).get("part_id", ""))
                if trip is None or record.topic in trip.log_ms:
                    continue
                missing -= 1
                trip.log_ms[record.topic] = float(record.timestamp_ms)
                if record.topic == "images.uploaded":
                    trip.uploaded = event


def _hops(trip: Trip) -> dict[str, float]:
    assert trip.uploaded
    assert trip.scored
    assert trip.received_ms
    received = _unix_ms(trip.uploaded["subject"]["received_at"])
    committed = _unix_ms(trip.uploaded["occurred_at"])
    scored = _unix_ms(trip.scored["occurred_at"])
    uploaded_log, scored_log = trip.log_ms["images.uploaded"], trip.log_ms["images.scored"]
    return {
        "client to web": received - trip.sent_ms,
        "check and store": committed - received,
        "commit, relay, Kafka": uploaded_log - committed,
        "Kafka to stage, load": scored - uploaded_log - trip.infer_ms,
        "stage to Kafka": scored_log - scored,
        "Kafka to websocket": trip.received_ms - scored_log,
    }


def _figures(
    trips: Sequence[Trip], *, rate: float, load_before: float, bare: Sequence[float]
) -> Json:
    totals = [trip.total_ms for trip in trips]
    hops = [_hops(trip) for trip in trips]
    p50, p95 = statistics.median(totals), percentile(totals, 0.95) or 0.0
    bare_p50, bare_p95 = statistics.median(bare), percentile(bare, 0.95) or 0.0
    return {
        "images": len(trips),
        "rate": rate,
        "p50_ms": round(p50, 1),
        "p95_ms": round(p95, 1),
        "max_ms": round(max(totals), 1),
        "infer_p50_ms": round(statistics.median(trip.infer_ms for trip in trips), 1),
        "hops_p50_ms": {
            name: round(statistics.median(hop[name] for hop in hops), 1) for name in hops[0]
        },
        "hops_p95_ms": {
            name: round(percentile([hop[name] for hop in hops], 0.95) or 0.0, 1) for name in hops[0]
        },
        "bare_p50_ms": round(bare_p50, 1),
        "bare_p95_ms": round(bare_p95, 1),
        "p50_to_bare": round(p50 / bare_p50, 2),
        "p95_to_bare": round(p95 / bare_p95, 2),
        "load_before": round(load_before, 2),
        "limits_ms": {"p50": P50_LIMIT_MS, "p95": P95_LIMIT_MS},
        "passed": p50 <= P50_LIMIT_MS and p95 <= P95_LIMIT_MS,
    }


def print_latency(result: Json) -> None:
    """Write the figures as tables on stdout."""
    rows = [
        [name, value, result["hops_p95_ms"][name]] for name, value in result["hops_p50_ms"].items()
    ]
    table(["hop", "p50 ms", "p95 ms"], rows)
    names = ["images", "a second", "p50 ms", "p95 ms", "max ms", "infer p50 ms", "other load"]
    keys = ["images", "rate", "p50_ms", "p95_ms", "max_ms", "infer_p50_ms", "load_before"]
    table(names, [[result[key] for key in keys]])
    names = ["the bare hops on this machine", "p50 ms", "p95 ms", "p50 x", "p95 x"]
    keys = ["bare_p50_ms", "bare_p95_ms", "p50_to_bare", "p95_to_bare"]
    table(names, [["nothing of what keeps an image", *(result[key] for key in keys)]])
