from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from adapters.embedded_broker import EmbeddedBroker, read_broker_file
from adapters.kafka.admin import open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from adapters.kafka.sink import KafkaSink
from pipeline.errors import ConfigError, StalledError
from schemas.message import Message, Record
from tests.services import until, wait_until

pytestmark = pytest.mark.needs_kafka
TOPIC = "images.uploaded"


@pytest.fixture(autouse=True)
def _kafka_can_run(kafka: str) -> None:
    """Skip, or fail in CI, where no broker can be started at all."""


async def _apply_topics(servers: str, copies: int = 1) -> None:
    async with open_admin(KafkaConnection(servers)) as admin:
        await admin.apply_topics(partitions=3, replication_factor=copies)


async def _read_all(servers: str) -> list[Record]:
    found: list[Record] = []
    async with KafkaOpenReader(KafkaConnection(servers))([TOPIC]) as reader:
        ends = await reader.end_offsets()
        while len(found) < sum(ends.values()):
            found.extend(await reader.poll(500, 1.0))
    return found


async def test_data_and_address_outlive_a_clean_stop(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as broker:
        address = broker.bootstrap_servers
        assert read_broker_file(tmp_path) == address
        await _apply_topics(address)
        sink = KafkaSink(KafkaConnection(address))
        await sink.publish([Message(TOPIC, b"k", b"kept")])
        await sink.close()
        assert broker.not_ready() == []
    assert read_broker_file(tmp_path) is None
    assert broker.not_ready()
    async with EmbeddedBroker(tmp_path) as again:
        assert again.bootstrap_servers == address
        assert [record.value for record in await _read_all(address)] == [b"kept"]


async def test_two_brokers_cannot_share_a_folder(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path):
        with pytest.raises(ConfigError, match="LINESIDE_STATE_DIR"):
            await EmbeddedBroker(tmp_path).__aenter__()
        assert read_broker_file(tmp_path)


async def test_a_port_in_use_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as refused:
            await EmbeddedBroker(tmp_path, port=port).__aenter__()
    assert str(port) in str(refused.value)
    assert "LINESIDE_KAFKA__EMBEDDED_PORT" in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_the_asked_port_is_taken(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with EmbeddedBroker(tmp_path, port=port) as broker:
        assert broker.bootstrap_servers == f"127.0.0.1:{port}"


async def test_a_broker_that_dies_is_noticed_and_named(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    running = asyncio.create_task(broker.run())
    await until(lambda: read_broker_file(tmp_path) is not None, "the broker runs", 60)
    os.kill(broker.pids[0], signal.SIGKILL)
    with pytest.raises(StalledError, match="node 1 ended with code -9"):
        await running


def test_no_broker_is_left_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, pathlib, sys
        from adapters.embedded_broker import EmbeddedBroker
        asyncio.run(EmbeddedBroker(pathlib.Path(sys.argv[1])).run())
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as parent:
        wait_until(lambda: read_broker_file(tmp_path) is not None, "the broker runs", 60)
        pids = json.loads((tmp_path / "broker.json").read_text())["pids"]
        parent.kill()
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "the broker is gone", 10)
    # The file that names it is stale now, and says so to whoever asks.
    assert read_broker_file(tmp_path) is None


async def test_three_nodes_lose_nothing_when_one_is_killed_under_load(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path, nodes=3) as broker:
        await _apply_topics(broker.bootstrap_servers, copies=3)
        sink = KafkaSink(KafkaConnection(broker.bootstrap_servers), timeout_s=60)
        acknowledged: list[bytes] = []

        async def publish(first: int, last: int) -> None:
            for number in range(first, last):
                value = str(number).encode()
                await sink.publish([Message(TOPIC, str(number % 9).encode(), value)])
                acknowledged.append(value)

        await publish(0, 200)
        broker.kill_node(2)
        await publish(200, 600)
        await broker.start_node(2)
        await broker.wait_ready()
        await publish(600, 700)
        await sink.close()
        stored = [record.value for record in await _read_all(broker.bootstrap_servers)]
    assert len(acknowledged) == 700
    assert set(acknowledged) == set(stored)
