"""A way in on memory: what tests of ingest, upload, relay and watcher share."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from uuid import uuid4

import numpy as np
from PIL import Image

from adapters.memory.broker import MemoryBroker
from adapters.memory.catalog import MemoryCatalog
from adapters.memory.clock import VirtualClock
from adapters.memory.inspections import MemoryInspections
from adapters.memory.objects import MemoryObjects
from adapters.memory.outbox import MemoryOutbox
from adapters.memory.tables import MemoryTables
from producers.ingest import Ingest, IngestLimits, IngestPorts
from schemas.codec import decode
from schemas.configuration import ProductConfigured
from schemas.event import Event


def picture(seed: int = 0, *, side_px: int = 32, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """Encode a noisy square."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


@dataclass
class IngestRig:
    """Tables, objects and a broker that outlive the `Ingest` of one process."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    tables: MemoryTables = field(default_factory=MemoryTables)
    objects: MemoryObjects = field(default_factory=MemoryObjects)

    def __post_init__(self) -> None:
        self.broker = MemoryBroker(self.clock)
        self.outbox = MemoryOutbox(self.tables, source="/test")
        self.catalog = MemoryCatalog(self.tables)
        self.inspections = MemoryInspections(self.tables)
        self.configure("bearing")

    def configure(self, product: str, *, removed: bool = False, revision: int = 1) -> None:
        event = ProductConfigured(
            event_id=uuid4(),
            occurred_at=self.clock.now(),
            product=product,
            display_name=product,
            removed=removed,
            revision=revision,
        )
        self.tables.write(event)

    def ports(self) -> IngestPorts:
        return IngestPorts(
            store=self.objects,
            bucket=self.objects.bucket,
            outbox=self.outbox,
            catalog=self.catalog,
            find_image=self.inspections.get,
            clock=self.clock,
        )

    def ingest(self, limits: IngestLimits | None = None) -> Ingest:
        return Ingest(self.ports(), limits)

    def published(self, topic: str = "images.uploaded") -> list[Event]:
        return [decode(record) for record in self.broker.records(topic)]
