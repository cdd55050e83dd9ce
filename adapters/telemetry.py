"""Measurements as Prometheus reads them (pipeline/telemetry.py names them all)."""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.telemetry import METRICS, Metric, MetricName

__all__ = ["CONTENT_TYPE", "PrometheusTelemetry", "read_exposition"]

_PREFIX = "lineside_"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class PrometheusTelemetry:
    """Counts into a registry of its own, so that two in one process never mix."""

    def __init__(self) -> None:
        """Make one collector per metric of the table."""
        self._registry = CollectorRegistry()
        self._collectors = {
            name: _collector(name, metric, self._registry) for name, metric in METRICS.items()
        }
        # `labels()` takes a lock and builds strings: once per combination is enough.
        self._children: dict[tuple[object, ...], Any] = {}

    def count(self, name: MetricName, n: float = 1, **labels: str) -> None:
        """Add to a counter."""
        self._child(name, labels).inc(n)

    def gauge(self, name: MetricName, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._child(name, labels).set(value)

    def observe(self, name: MetricName, value: float, **labels: str) -> None:
        """Add one value to a histogram."""
        self._child(name, labels).observe(value)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text form (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def _child(self, name: MetricName, labels: dict[str, str]) -> Any:
        key = (name, *labels.values())
        child = self._children.get(key)
        if child is None:
            collector = self._collectors[name]
            child = collector.labels(**labels) if labels else collector
            self._children[key] = child
        return child


def read_exposition(text: str) -> dict[str, float]:
    """Return what a `/metrics` says, by name without prefix and labels beside the stage.

    `dead_letters_total{reason="bug"}` keeps its reason; of stages in one process values add up,
    but for ages, of which the oldest counts. Buckets are left out.
    """
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.startswith(_PREFIX) or sample.name.endswith("_bucket"):
                continue
            labels = [f'{k}="{v}"' for k, v in sorted(sample.labels.items()) if k != "stage"]
            name = sample.name.removeprefix(_PREFIX) + (f"{{{','.join(labels)}}}" if labels else "")
            former = found.get(name, 0.0)
            is_age = name.startswith("oldest_age")
            found[name] = max(former, sample.value) if is_age else former + sample.value
    return found


def _collector(name: str, metric: Metric, registry: CollectorRegistry) -> Any:
    meaning = f"{metric.meaning} ({metric.unit})"
    full_name = _PREFIX + name
    if metric.kind == "counter":
        return Counter(full_name, meaning, metric.labels, registry=registry)
    if metric.kind == "gauge":
        return Gauge(full_name, meaning, metric.labels, registry=registry)
    buckets = _SECONDS if metric.unit == "seconds" else _ITEMS
    return Histogram(full_name, meaning, metric.labels, registry=registry, buckets=buckets)
