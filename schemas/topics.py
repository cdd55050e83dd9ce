"""The one table of topics: what flows, how it is keyed and kept, who makes it and who reads it.

Replays write to topics of their own, which no role reads (`schemas.side_topics`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from schemas.anomalies import ImageScored
from schemas.configuration import (
    BankPublished,
    BankRequested,
    CaseRegistered,
    ManualPublished,
    ProductConfigured,
)
from schemas.dead_letters import DeadLetter
from schemas.embeddings import ImageEmbedded
from schemas.event import Event
from schemas.images import ImageSkipped, ImageUploaded, InspectionRequested
from schemas.reports import ImageExplained, ReportStreamed
from schemas.reviews import ReviewRecorded

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

# Every stage of the pipeline that may bury an event.
STAGES = ("embed", "anomaly", "llm", "record", "bank-build")


@dataclass(frozen=True, slots=True)
class Topic:
    """One row. `retention_ms` None means compacted: the newest event of each key stays."""

    name: str
    event: type[Event]
    retention_ms: int | None
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    key: Callable[[Any], str]
    key_name: str = "station, else source, else product"
    single_partition: bool = False

    @property
    def compacted(self) -> bool:
        """Whether the topic holds state, the newest event of each key."""
        return self.retention_ms is None


def _by_station(event: Any) -> str:
    return str(event.subject.partition_key)


def _dead_letter_key(event: DeadLetter) -> str:
    return event.subject.partition_key if event.subject else event.stage


def _state(
    name: str, event: type[Event], consumers: tuple[str, ...], key: Callable[[Any], str], label: str
) -> Topic:
    return Topic(name, event, None, ("web",), consumers, key, label, single_partition=True)


_ROWS = (
    Topic(
        "images.uploaded", ImageUploaded, 7 * DAY_MS, ("web", "camera", "mes"),
        ("embed", "anomaly", "record", "notifier"), _by_station,
    ),
    Topic(
        "images.embedded", ImageEmbedded, 7 * DAY_MS, ("embed",),
        ("record", "notifier"), _by_station,
    ),
    Topic(
        "images.scored", ImageScored, 7 * DAY_MS, ("anomaly",),
        ("llm", "record", "notifier"), _by_station,
    ),
    Topic(
        "images.skipped", ImageSkipped, 7 * DAY_MS, ("anomaly", "llm"),
        ("record", "notifier"), _by_station,
    ),
    Topic(
        "images.explained", ImageExplained, 30 * DAY_MS, ("llm",),
        ("record", "notifier"), _by_station,
    ),
    Topic("reports.streamed", ReportStreamed, HOUR_MS, ("llm",), ("notifier",), _by_station),
    Topic(
        "inspections.requested", InspectionRequested, 7 * DAY_MS, ("web", "mes"),
        ("anomaly", "llm", "record"), _by_station,
    ),
    Topic(
        "reviews.recorded", ReviewRecorded, 365 * DAY_MS, ("web",),
        ("record", "notifier"), _by_station,
    ),
    Topic(
        "banks.requested", BankRequested, 7 * DAY_MS, ("web",), ("bank-build",),
        lambda event: str(event.product), "product",
    ),
    _state(
        "products.configured", ProductConfigured, ("embed", "anomaly", "llm", "record"),
        lambda event: str(event.product), "product",
    ),
    Topic(
        "banks.published", BankPublished, None, ("anomaly",), ("anomaly", "record"),
        lambda event: f"{event.product}/{event.version}", "product/version", single_partition=True,
    ),
    _state(
        "cases.registered", CaseRegistered, ("embed", "record"),
        lambda event: str(event.case_id), "case_id",
    ),
    _state(
        "manuals.published", ManualPublished, ("llm", "record"),
        lambda event: str(event.manual_id), "manual_id",
    ),
    *(
        Topic(
            f"dead-letters.{stage}", DeadLetter, 90 * DAY_MS, (stage,),
            ("record", "notifier"), _dead_letter_key, "as the event it holds, else the stage",
        )
        for stage in STAGES
    ),
)  # fmt: skip

TOPICS: MappingProxyType[str, Topic] = MappingProxyType({row.name: row for row in _ROWS})
_BY_EVENT = {row.event: row.name for row in _ROWS if row.event is not DeadLetter}


def topic_of(event: Event) -> Topic:
    """Return the row that carries an event.

    Raises:
        KeyError: the event's type has no row; add one here.
    """
    if isinstance(event, DeadLetter):
        return TOPICS[f"dead-letters.{event.stage}"]
    return TOPICS[_BY_EVENT[type(event)]]


def topics_read_by(role: str) -> tuple[str, ...]:
    """Names of the topics that a role or stage consumes, in table order."""
    return tuple(row.name for row in _ROWS if role in row.consumers)


def triggers_of(stage: str) -> tuple[str, ...]:
    """Names of the topics that a stage works through; compacted ones it follows as state."""
    read = topics_read_by(stage)
    if stage == "record":  # which keeps state as it keeps everything
        return read
    return tuple(name for name in read if not TOPICS[name].compacted)
