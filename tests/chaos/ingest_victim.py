"""A process that takes one image and is killed on the way: `ingest_victim.py STATE METHOD WHEN`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from adapters.clock import SystemClock
from adapters.memory.broker import MemoryBroker
from adapters.objects import open_objects
from adapters.sql.catalog import SqlCatalog
from adapters.sql.engine import migrate, open_database
from adapters.sql.inspections import SqlInspections
from adapters.sql.outbox import SqlOutbox
from producers.ingest import Capture, Ingest, IngestPorts
from producers.relay import Relay
from schemas.configuration import ProductConfigured
from tests.ingest_rig import picture

CAPTURE = Capture(product="bearing", part_id="P-1", idempotency_key="shot-1")


class Killed:
    """A port around one of whose calls the process is killed."""

    def __init__(self, target: Any, method: str, when: str) -> None:
        self._target, self._method, self._when = target, method, when

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name != self._method:
            return found

        async def call(*args: Any, **kwargs: Any) -> None:
            if self._when == "after":
                await found(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        return call


def database_url(state: Path) -> str:
    return f"sqlite+aiosqlite:///{state / 'lineside.db'}"


async def prepare(state: Path) -> None:
    await migrate(database_url(state))
    async with open_database(database_url(state)) as database:
        product = ProductConfigured(
            event_id=uuid4(),
            occurred_at=SystemClock().now(),
            product="bearing",
            display_name="bearing",
        )
        await SqlOutbox(database, source="/test").append([product])


async def live(state: Path, method: str, when: str) -> None:
    async with (
        open_objects((state / "objects").as_uri()) as objects,
        open_database(database_url(state)) as database,
    ):
        outbox: Any = Killed(SqlOutbox(database, source="/test"), method, when)
        ports = IngestPorts(
            store=objects,
            bucket=objects.bucket,
            outbox=outbox,
            catalog=SqlCatalog(database),
            find_image=SqlInspections(database).get,
            clock=SystemClock(),
        )
        store: Any = Killed(objects, method, when)
        await Ingest(replace(ports, store=store)).accept(picture(), CAPTURE)
        sink: Any = Killed(MemoryBroker(SystemClock()), method, when)
        await Relay(outbox, sink, clock=SystemClock()).run()


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
