"""The console's HTTP over memory, with real pictures."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from PIL import Image

from adapters.clock import SystemClock
from adapters.memory.arrivals import MemoryArrivals
from adapters.memory.catalog import MemoryCatalog
from adapters.memory.inspections import MemoryInspections
from adapters.memory.objects import MemoryObjects
from adapters.memory.outbox import MemoryOutbox
from adapters.memory.tables import MemoryTables
from adapters.pictures import overlay, thumbnail
from console.api.needs import ConsoleNeeds, Pictures, SiteFacts
from console.api.router import build_router
from console.api.search import SearchDesk
from console.problems import install_problem_handlers
from producers.image_check import check_image
from schemas.codec import decode
from schemas.event import Event
from schemas.message import Record
from tests.story import Story, configured


def jpeg(grey: int = 100, *, size: tuple[int, int] = (64, 48)) -> bytes:
    """Encode a plain picture."""
    out = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(out, "JPEG")
    return out.getvalue()


def heatmap_png() -> bytes:
    """Encode a heatmap, half of it clear."""
    out = io.BytesIO()
    Image.new("RGBA", (16, 12), (255, 200, 0, 128)).save(out, "PNG")
    return out.getvalue()


def pictured(part_id: str = "P-1", **fields: Any) -> Story:
    """Tell of an image whose bytes are `jpeg()`."""
    return Story(part_id, data=jpeg(), **fields)


@dataclass
class ConsoleRig:
    """A client of the console, and what lies behind it."""

    http: httpx.AsyncClient
    tables: MemoryTables
    outbox: MemoryOutbox
    inspections: MemoryInspections
    objects: MemoryObjects
    searches: list[httpx.Request]

    async def call(self, method: str, path: str, status: int = 200, **arguments: Any) -> Any:
        """Send a request, check its status, return its JSON (None for an empty answer)."""
        answer = await self.http.request(method, path, **arguments)
        assert answer.status_code == status, (answer.status_code, answer.text)
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        return answer.json() if answer.content else None

    async def post_files(self, path: str, *files: tuple[str, bytes], **fields: str) -> Any:
        """Send files as one form."""
        return await self.call("POST", path, files=[("file", f) for f in files], data=fields)

    async def published(self) -> list[Event]:
        """Events that wait for the relay, oldest first."""
        rows = [row.message for row in await self.outbox.pending(1000)]
        return [decode(Record(m.topic, 0, 0, m.key, m.value, m.headers)) for m in rows]

    async def accept(self, story: Story, *results: Event) -> None:
        """Let an image be uploaded and its results be recorded."""
        await self.outbox.append([story.uploaded])
        await self.inspections.save(results)
        await self.objects.put(story.subject.image.key, jpeg(), content_type="image/jpeg")


@asynccontextmanager
async def open_console(search: Any = None) -> AsyncIterator[ConsoleRig]:
    """Open a console with one product, `cap`; `search` answers what is passed on."""
    tables, objects = MemoryTables(), MemoryObjects(bucket="lineside")
    outbox = MemoryOutbox(tables, source="/lineside/web")
    inspections, catalog = MemoryInspections(tables), MemoryCatalog(tables)
    tables.write(configured(1))
    needs = ConsoleNeeds(
        outbox=outbox,
        inspections=inspections,
        arrivals=MemoryArrivals(tables),
        catalog=catalog,
        store=objects,
        clock=SystemClock(),
        pictures=Pictures(check_image, thumbnail, overlay),
        site=SiteFacts(version="0.1.0", upload_limit_mb=1),
        bucket="lineside",
        read_pages=lambda data, _name, _type: dict(enumerate(data.decode().split("\f"), 1)),
    )
    searches: list[httpx.Request] = []

    def passed_on(request: httpx.Request) -> httpx.Response:
        searches.append(request)
        if search is None:
            raise httpx.ConnectError("nobody listens")
        return httpx.Response(200, json=search)

    app = FastAPI()
    install_problem_handlers(app)
    async with httpx.AsyncClient(transport=httpx.MockTransport(passed_on)) as embed:
        desk = SearchDesk(embed, "http://embed:5010", catalog, max_bytes=needs.max_bytes)
        app.include_router(build_router(needs, desk))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://console") as http:
            yield ConsoleRig(http, tables, outbox, inspections, objects, searches)
