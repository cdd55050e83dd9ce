"""What the product measures of itself: every name with its kind, unit and meaning."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, get_args

MetricName = Literal[
    "records_polled",
    "events_settled",
    "events_retried",
    "dead_letters",
    "records_buffered",
    "records_held",
    "records_in_flight",
    "records_settled_ahead",
    "partitions_paused",
    "partitions_assigned",
    "lag_records",
    "oldest_age_seconds",
    "commits",
    "batch_items",
    "infer_seconds",
    "save_seconds",
    "publish_seconds",
    "drain_seconds",
    "breaker_open",
    "careful_partitions",
    "member_rebuilds",
    "control_records_refused",
    "event_age_seconds",
    "loop_lag_seconds",
    "uploads",
    "outbox_pending",
    "outbox_oldest_seconds",
    "outbox_refused",
    "disk_free_bytes",
    "reconciled",
    "feed_clients",
    "feed_events",
]
Kind = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    """One row. `labels` are the names every observation carries."""

    kind: Kind
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


_STAGE = ("stage",)

METRICS: Mapping[MetricName, Metric] = MappingProxyType(
    {
        "records_polled": Metric("counter", "records", "read from the log", _STAGE),
        "events_settled": Metric("counter", "events", "settled without a dead letter", _STAGE),
        "events_retried": Metric("counter", "events", "held and tried again", _STAGE),
        "dead_letters": Metric(
            "counter", "events", "published as dead letters", ("stage", "reason")
        ),
        "records_buffered": Metric("gauge", "records", "read, not started", _STAGE),
        "records_held": Metric(
            "gauge", "records", "wait for a time, or behind one of their key that does", _STAGE
        ),
        "records_in_flight": Metric("gauge", "records", "started, not settled", _STAGE),
        "records_settled_ahead": Metric(
            "gauge",
            "records",
            "settled while an earlier one is not: gaps before the commit",
            _STAGE,
        ),
        "partitions_paused": Metric("gauge", "partitions", "not read at the moment", _STAGE),
        "partitions_assigned": Metric("gauge", "partitions", "owned by this worker", _STAGE),
        "lag_records": Metric(
            "gauge", "records", "in the log, not settled, all partitions", _STAGE
        ),
        "oldest_age_seconds": Metric(
            "gauge", "seconds", "since the append of the oldest record that is not settled", _STAGE
        ),
        "commits": Metric("counter", "commits", "of explicit positions", _STAGE),
        "batch_items": Metric("histogram", "items", "in one infer call", _STAGE),
        "infer_seconds": Metric("histogram", "seconds", "one infer call", _STAGE),
        "save_seconds": Metric("histogram", "seconds", "saving one batch", _STAGE),
        "publish_seconds": Metric(
            "histogram", "seconds", "from sending outputs to all acknowledgements", _STAGE
        ),
        "drain_seconds": Metric("histogram", "seconds", "handing partitions over", _STAGE),
        "breaker_open": Metric(
            "gauge", "0 or 1", "1 while the dependency is away", ("stage", "dependency")
        ),
        "careful_partitions": Metric(
            "gauge", "partitions", "go one record at a time after crashes", _STAGE
        ),
        "member_rebuilds": Metric(
            "counter", "members", "replaced because they were frozen", ("stage", "reason")
        ),
        "control_records_refused": Metric(
            "counter", "records", "of a control topic that could not be applied", ("topic",)
        ),
        "event_age_seconds": Metric(
            "histogram",
            "seconds",
            "from the append of the first of some records to its settling",
            _STAGE,
        ),
        "loop_lag_seconds": Metric(
            "gauge", "seconds", "the event loop woke up late, worst of 10 s"
        ),
        "uploads": Metric("counter", "requests", "answers to image uploads", ("outcome",)),
        "outbox_pending": Metric("gauge", "rows", "wait for the relay"),
        "outbox_oldest_seconds": Metric("gauge", "seconds", "age of the oldest row that waits"),
        "outbox_refused": Metric("gauge", "rows", "can never be published and were set aside"),
        "disk_free_bytes": Metric("gauge", "bytes", "free where images and tables are kept"),
        "reconciled": Metric("counter", "events", "the log had lost, published again", _STAGE),
        "feed_clients": Metric("gauge", "clients", "connected to the live feed"),
        "feed_events": Metric("counter", "events", "sent to live clients"),
    }
)
assert set(METRICS) == set(get_args(MetricName))


class Telemetry(Protocol):
    """Where measurements go. Labels are those of the metric's row."""

    def count(self, name: MetricName, n: float = 1, **labels: str) -> None:
        """Add to a counter."""
        ...

    def gauge(self, name: MetricName, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...

    def observe(self, name: MetricName, value: float, **labels: str) -> None:
        """Add one value to a histogram."""
        ...


class NullTelemetry:
    """Measures nothing."""

    def count(self, name: MetricName, n: float = 1, **labels: str) -> None:
        """Drop it."""

    def gauge(self, name: MetricName, value: float, **labels: str) -> None:
        """Drop it."""

    def observe(self, name: MetricName, value: float, **labels: str) -> None:
        """Drop it."""
