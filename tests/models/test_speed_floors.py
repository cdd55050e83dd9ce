"""What keeps the figures of the README from fading unseen.

The bounds are loose, for a busy machine with two cores: a step that costs half as much again as
today, or a wait on the way of an image, shows here; exact figures are for `lineside bench`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.embedded_broker import EmbeddedBroker
from app.bench.latency import bench_latency, print_latency
from app.bench.runtime import bench_runtime, print_runtime
from pipeline.errors import ConfigError
from tests.services import missing


@pytest.mark.needs_kafka
async def test_the_worker_costs_less_than_faststream_and_little_more_than_a_bare_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        async with EmbeddedBroker(tmp_path) as broker:
            result = await bench_runtime(broker.bootstrap_servers, records=6_000, rounds=2)
    except ConfigError as error:
        missing("Apache Kafka", str(error))
    # Processor time is the figure that others on the machine do not disturb.
    cpu_us = result["cpu_us_per_record"]
    assert cpu_us["faststream"] >= 1.1 * cpu_us["worker"], cpu_us
    assert cpu_us["bare"] >= 0.2 * cpu_us["worker"], cpu_us
    # And no step waits: then it would be slow without costing anything.
    assert result["worker_to"]["bare"] >= 0.1, result["rates"]
    print_runtime(result)
    assert "records/s" in capsys.readouterr().out


@pytest.mark.needs_kafka
async def test_a_verdict_reaches_the_screen_soon_after_its_inference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        result = await bench_latency(tmp_path, rate=5, count=15)
    except ConfigError as error:
        missing("Apache Kafka, or the weights of EfficientNet-Lite0", str(error))
    assert result["images"] == 15
    assert result["p50_ms"] <= 250, result["hops_p50_ms"]
    print_latency(result)
    assert "Kafka to stage, load" in capsys.readouterr().out
