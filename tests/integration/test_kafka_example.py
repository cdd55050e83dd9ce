from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

import pytest

from adapters.kafka.admin import open_admin
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.reader import KafkaOpenReader
from schemas.codec import decode
from schemas.images import ImageUploaded

SCRIPT = Path(__file__).parents[2] / "examples" / "kafka_only_camera.py"


@pytest.mark.needs_kafka
async def test_a_camera_that_knows_only_kafka_is_understood(kafka: str, tmp_path: Path) -> None:
    async with open_admin(KafkaConnection(kafka)) as admin:
        await admin.apply_topics(partitions=3, replication_factor=1)
    photo = tmp_path / "하우징_7.jpg"
    photo.write_bytes(b"\xff\xd8 a photo")
    arguments = [str(SCRIPT), kafka, "lineside", "베어링-하우징", "cam-9", str(photo)]
    async with KafkaOpenReader(KafkaConnection(kafka))(["images.uploaded"], "latest") as reader:
        script = await asyncio.create_subprocess_exec(sys.executable, *arguments)
        assert await script.wait() == 0
        (record,) = await reader.poll(10, 10.0)
    event = decode(record)
    assert isinstance(event, ImageUploaded)
    assert record.key == event.subject.partition_key.encode() == b"cam-9"
    assert event.subject.image.sha256 == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert event.subject.time_quality == "device"
    assert event.subject.received_at.timestamp() * 1000 == record.timestamp_ms
