from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.error import HTTPError

import pytest

from adapters.health import HealthServer
from adapters.telemetry import CONTENT_TYPE, PrometheusTelemetry
from pipeline.errors import ConfigError
from pipeline.telemetry import METRICS


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@asynccontextmanager
async def _running(server: HealthServer) -> AsyncIterator[None]:
    task = asyncio.create_task(server.run())
    await server.listening.wait()
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _server(reasons: Sequence[str] = (), **options: float) -> HealthServer:
    telemetry = PrometheusTelemetry()
    telemetry.count("events_settled", 3, stage="embed")
    return HealthServer(lambda: reasons, lambda: (telemetry.exposition(), CONTENT_TYPE), **options)  # type: ignore[arg-type]  # one option, a float


async def test_a_role_that_can_work_says_so() -> None:
    server = _server()
    async with _running(server):
        assert await asyncio.to_thread(_get, server.port, "/health") == (200, '{"status": "alive"}')
        status, body = await asyncio.to_thread(_get, server.port, "/ready?probe=1")
    assert (status, json.loads(body)["status"]) == (200, "ready")


async def test_a_role_that_cannot_work_says_why_and_is_alive() -> None:
    server = _server(["the broker is away"])
    async with _running(server):
        status, body = await asyncio.to_thread(_get, server.port, "/ready")
        assert (status, json.loads(body)["reasons"]) == (503, ["the broker is away"])
        assert (await asyncio.to_thread(_get, server.port, "/health"))[0] == 200


async def test_a_frozen_event_loop_is_not_called_alive() -> None:
    server = _server(frozen_after_s=0.05)
    async with _running(server):
        answer = asyncio.create_task(asyncio.to_thread(_get, server.port, "/health"))
        await asyncio.sleep(0)
        # The loop stands still, as under a decoder that forgot its thread.
        time.sleep(0.3)  # noqa: ASYNC251 - this is the fault under test
        server_answer = server.answer("/health")
        await answer
    assert server_answer[0] == 503
    assert json.loads(server_answer[1])["status"] == "frozen"


async def test_metrics_are_served_in_prometheus_form() -> None:
    server = _server()
    async with _running(server):
        status, body = await asyncio.to_thread(_get, server.port, "/metrics")
    assert status == 200
    assert 'lineside_events_settled_total{stage="embed"} 3.0' in body


async def test_an_unknown_path_names_the_known_ones() -> None:
    server = _server()
    async with _running(server):
        status, body = await asyncio.to_thread(_get, server.port, "/")
    assert (status, json.loads(body)["paths"]) == (404, ["/health", "/ready", "/metrics"])


async def test_a_port_in_use_is_one_line_that_names_it() -> None:
    first = _server()
    async with _running(first):
        second = HealthServer(list, lambda: (b"", "text/plain"), port=first.port)
        with pytest.raises(ConfigError, match=f"health port {first.port}"):
            await second.run()


def test_every_metric_of_the_table_can_be_recorded() -> None:
    telemetry = PrometheusTelemetry()
    for name, metric in METRICS.items():
        labels = dict.fromkeys(metric.labels, "x")
        match metric.kind:
            case "counter":
                telemetry.count(name, 1.0, **labels)
            case "gauge":
                telemetry.gauge(name, 1.0, **labels)
            case _:
                telemetry.observe(name, 0.1, **labels)
    text = telemetry.exposition().decode()
    assert all(f"lineside_{name}" in text for name in METRICS)


def test_two_processes_worth_of_telemetry_do_not_mix() -> None:
    one, other = PrometheusTelemetry(), PrometheusTelemetry()
    one.count("uploads", outcome="accepted")
    assert "accepted" not in other.exposition().decode()
