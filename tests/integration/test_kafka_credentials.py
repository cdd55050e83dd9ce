from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapters import embedded_broker
from adapters.embedded_node import Node, write_properties
from adapters.kafka.admin import check, open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from adapters.kafka.sink import KafkaSink
from pipeline.errors import ConfigError
from schemas.message import Message
from tests.services import free_port

pytestmark = pytest.mark.needs_kafka
PASSWORD = "correct-horse"


@pytest.fixture
async def guarded(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KafkaConnection]:
    """Connect to a broker that also listens with user names and passwords."""
    port = free_port()
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"

    def with_passwords(node: Node, nodes: list[Node]) -> None:
        write_properties(node, nodes)
        plain, controller = f"127.0.0.1:{node.port}", f"127.0.0.1:{node.controller_port}"
        extra = {
            "listeners": f"PLAINTEXT://{plain},CONTROLLER://{controller},DOOR://127.0.0.1:{port}",
            "advertised.listeners": f"PLAINTEXT://{plain},DOOR://127.0.0.1:{port}",
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,DOOR:SASL_PLAINTEXT"
            ),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.door.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.door.plain.sasl.jaas.config": (
                f'{module} required user_lineside="{PASSWORD}";'
            ),
        }
        with node.properties_path.open("a") as properties:
            properties.writelines(f"{name}={value}\n" for name, value in extra.items())

    monkeypatch.setattr(embedded_broker, "write_properties", with_passwords)
    async with embedded_broker.EmbeddedBroker(tmp_path) as broker:
        async with open_admin(KafkaConnection(broker.bootstrap_servers)) as admin:
            await admin.apply_topics(partitions=1, replication_factor=1)
        yield KafkaConnection(
            f"127.0.0.1:{port}",
            security_protocol="SASL_PLAINTEXT",
            sasl_username="lineside",
            sasl_password=PASSWORD,
        )


async def test_the_right_password_opens_and_a_wrong_one_is_told_from_away(
    guarded: KafkaConnection,
) -> None:
    assert "1 broker" in await check(guarded)
    sink = KafkaSink(guarded)
    await sink.publish([Message("images.uploaded", b"k", b"v")])
    await sink.close()
    async with KafkaOpenReader(guarded)(["images.uploaded"]) as reader:
        assert [record.value for record in await reader.poll(10, 10.0)] == [b"v"]
    wrong = replace(guarded, sasl_password="correct-horze")
    for refused in (wrong, replace(guarded, sasl_username="nobody")):
        with pytest.raises(ConfigError, match="refuses the credentials") as told:
            await check(refused)
        assert "correct-hor" not in str(told.value)
    with pytest.raises(ConfigError, match="SECURITY_PROTOCOL"):
        await check(replace(guarded, security_protocol="PLAINTEXT"))
    with pytest.raises(ConfigError, match="SASL_MECHANISM"):
        await check(replace(guarded, sasl_mechanism="SCRAM-SHA-512"))
