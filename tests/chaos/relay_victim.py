"""A web process reduced to its relay: `relay_victim.py DATABASE_URL BOOTSTRAP_SERVERS`."""

from __future__ import annotations

import asyncio
import sys

from adapters.clock import SystemClock
from adapters.kafka.connection import KafkaConnection
from adapters.kafka.fenced_sink import FencedKafkaSink
from adapters.sql.engine import open_database
from adapters.sql.outbox import SqlOutbox
from producers.relay import Relay


async def live(database_url: str, servers: str) -> None:
    async with open_database(database_url) as database:
        outbox = SqlOutbox(database, source="/test")
        sink = FencedKafkaSink(KafkaConnection(servers), "relay-victims")
        relay = Relay(
            outbox, sink, clock=SystemClock(), batch=10, poll_s=0.02, take_over=sink.take_over
        )
        await relay.run()


if __name__ == "__main__":
    asyncio.run(live(sys.argv[1], sys.argv[2]))
