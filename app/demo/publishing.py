"""Publishes held-out pictures through HTTP and watches their results arrive on the feed."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import websockets

Json = dict[str, Any]

_RETRIED = {429, 503}


@dataclass
class Sent:
    """One picture on its way. Times are monotonic seconds of this process."""

    product: str
    path: Path
    is_defect: bool
    label: str | None
    sent_at: float = 0.0
    image_id: str | None = None
    refused: str | None = None
    verdict_at: float | None = None
    view: Json | None = None

    @property
    def latency_ms(self) -> float | None:
        """From the start of the request to the verdict on the websocket."""
        if self.verdict_at is None:
            return None
        return 1000 * (self.verdict_at - self.sent_at)

    @property
    def is_complete(self) -> bool:
        """Whether every stage has settled it."""
        return bool(self.view) and self.view["status"] in {"complete", "failed"}  # type: ignore[index] # checked before


@dataclass
class Publisher:
    """Sends pictures and collects what comes of them.

    Args:
        url: of the web role.
        run_id: makes the pictures of this run new ones.
        on_verdict: told of each verdict with its picture.
    """

    url: str
    run_id: str
    on_verdict: Callable[[Sent, Json], None]
    token: str | None = None
    sent: dict[str, Sent] = field(default_factory=dict)
    early: dict[str, tuple[float, Json]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url, headers=self._headers, timeout=30, trust_env=False
        )

    async def watch(self, started: asyncio.Event) -> None:
        """Follow the feed until cancelled, coming back to where it broke off."""
        address = self.url.replace("http", "ws", 1) + "/v1/feed"
        position = "latest"
        while True:
            with suppress(OSError, websockets.WebSocketException):
                async with websockets.connect(
                    address, compression=None, proxy=None, additional_headers=self._headers
                ) as feed:
                    first = {"subscribe": {"topics": ["images.scored"]}, "position": position}
                    await feed.send(json.dumps(first))
                    async for text in feed:
                        message = json.loads(text)
                        position = message.get("position") or message.get("to") or position
                        started.set()
                        if message["type"] == "event":
                            self._take(message["event"])
            await asyncio.sleep(0.2)

    def _take(self, event: Json) -> None:
        image_id = event["subject"]["image_id"]
        item = self.sent.get(image_id)
        now = time.monotonic()
        if item is None:  # the verdict was faster than the answer to the upload
            self.early[image_id] = (now, event)
        elif item.verdict_at is None:
            item.verdict_at = now
            self.on_verdict(item, event)

    async def send(self, http: httpx.AsyncClient, item: Sent) -> None:
        """Upload one picture; waits out overload as the server asks."""
        data = {
            "product": item.product,
            "source": "demo-camera",
            "station": f"demo-{item.product}",
            "part_id": f"{self.run_id[-6:]}-{next(self.numbers):04}",
            "lot_id": self.run_id,
            "captured_at": datetime.now(UTC).isoformat(),
        }
        content = item.path.read_bytes()
        # The name goes along as a camera would send it: without what the folder knows of it.
        files = {"file": (f"capture{item.path.suffix}", content)}
        item.sent_at = time.monotonic()
        while True:
            answer = await http.post("/v1/images", data=data, files=files)
            if answer.status_code not in _RETRIED:
                break
            await asyncio.sleep(float(answer.headers.get("Retry-After", "1")))
        if answer.status_code != 202:
            item.refused = answer.text
            return
        item.image_id = str(answer.json()["image_id"])
        self.sent[item.image_id] = item
        if item.image_id in self.early:
            item.verdict_at, event = self.early.pop(item.image_id)
            self.on_verdict(item, event)

    async def send_all(self, items: Sequence[Sent], *, per_second: float) -> None:
        """Send at a steady rate."""
        async with self._http() as http:
            began = time.monotonic()
            sending = []
            for number, item in enumerate(items):
                await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
                sending.append(asyncio.create_task(self.send(http, item)))
            await asyncio.gather(*sending)

    async def settle(
        self, items: Sequence[Sent], *, limit_s: float, on_progress: Callable[[int], None]
    ) -> None:
        """Ask GET until every accepted image is complete, or none moved for `limit_s`."""
        async with self._http() as http:
            open_items = [item for item in items if item.image_id]
            moved_at = time.monotonic()
            while open_items and time.monotonic() - moved_at < limit_s:
                for item in open_items:
                    answer = await http.get(f"/v1/images/{item.image_id}")
                    if answer.status_code == 200:
                        item.view = answer.json()
                still = [item for item in open_items if not item.is_complete]
                if len(still) < len(open_items):
                    moved_at = time.monotonic()
                open_items = still
                on_progress(len([i for i in items if i.image_id]) - len(still))
                if open_items:
                    await asyncio.sleep(0.3)
