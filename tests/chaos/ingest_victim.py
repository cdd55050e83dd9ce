"""A process that takes one image and is killed on the way: `ingest_victim.py WHERE METHOD WHEN`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from adapters.clock import SystemClock
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.sink import KafkaSink
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


@dataclass(frozen=True)
class Where:
    """The stack that outlives the victim; without `kafka` a broker in its memory."""

    database: str
    objects: str
    access_key: str | None = None
    secret_key: str | None = None
    kafka: str | None = None

    def as_text(self) -> str:
        return json.dumps(asdict(self))


def on_this_machine(state: Path) -> Where:
    return Where(f"sqlite+aiosqlite:///{state / 'lineside.db'}", (state / "objects").as_uri())


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


@dataclass
class Opened:
    """The stack, opened by one process."""

    ports: IngestPorts
    outbox: SqlOutbox
    sink: Any


@asynccontextmanager
async def opened(where: Where) -> AsyncIterator[Opened]:
    store = open_objects(where.objects, access_key=where.access_key, secret_key=where.secret_key)
    async with store as objects, open_database(where.database) as database:
        outbox = SqlOutbox(database, source="/test")
        ports = IngestPorts(
            store=objects,
            bucket=objects.bucket,
            outbox=outbox,
            catalog=SqlCatalog(database),
            find_image=SqlInspections(database).get,
            clock=SystemClock(),
        )
        if where.kafka is None:
            yield Opened(ports, outbox, MemoryBroker(SystemClock()))
            return
        sink = KafkaSink(KafkaConnection(where.kafka))
        yield Opened(ports, outbox, sink)
        await sink.close()


async def prepare(where: Where) -> None:
    await migrate(where.database)
    async with opened(where) as stack:
        product = ProductConfigured(
            event_id=uuid4(),
            occurred_at=SystemClock().now(),
            product="bearing",
            display_name="bearing",
        )
        await stack.outbox.append([product])


async def live(where: Where, method: str, when: str) -> None:
    async with opened(where) as stack:
        outbox: Any = Killed(stack.outbox, method, when)
        store: Any = Killed(stack.ports.store, method, when)
        ports = replace(stack.ports, store=store, outbox=outbox)
        await Ingest(ports).accept(picture(), CAPTURE)
        sink: Any = Killed(stack.sink, method, when)
        await Relay(outbox, sink, clock=SystemClock()).run()


if __name__ == "__main__":
    asyncio.run(live(Where(**json.loads(sys.argv[1])), sys.argv[2], sys.argv[3]))
