"""A camera that knows only Kafka: publish ImageUploaded for a photo that lies in the store."""

import asyncio
import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from aiokafka import AIOKafkaProducer


async def publish(data: bytes, servers: str, bucket: str, product: str, source: str) -> None:
    """Announce the object `images/<sha256 of the photo>`; what is left out, Lineside derives."""
    sha256 = hashlib.sha256(data).hexdigest()
    image = {"bucket": bucket, "key": f"images/{sha256}", "sha256": sha256, "size_bytes": len(data)}
    captured_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    subject = {"product": product, "source": source, "captured_at": captured_at, "image": image}
    async with AIOKafkaProducer(bootstrap_servers=servers, acks="all") as producer:
        value = json.dumps({"subject": subject}).encode()
        await producer.send_and_wait("images.uploaded", value, key=source.encode())


asyncio.run(publish(Path(sys.argv[5]).read_bytes(), *sys.argv[1:5]))
