from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from adapters.kafka.connection import KafkaConnection, explain_refusal
from adapters.kafka.witness import KafkaWitness
from pipeline.errors import ConfigError, DependencyDownError, LinesideError
from tests.services import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[KafkaConnection]:
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield KafkaConnection(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    finally:
        listening.close()
        await until(lambda: len(asyncio.all_tasks()) == 1, "every connection has ended")


async def hang_up_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def hang_up_when_spoken_to(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await reader.read(1)
    writer.transport.abort()


async def explained(serve: Serve) -> LinesideError:
    async with server(serve) as connection:
        return await explain_refusal(connection, OSError("gone"))


async def test_a_proxy_whose_broker_is_gone_means_that_the_broker_is_away() -> None:
    """Found by the chaos bench: one killed broker behind a proxy ended the web role."""
    assert isinstance(await explained(hang_up_at_once), DependencyDownError)


async def test_a_broker_that_hangs_up_on_what_we_say_wants_other_credentials() -> None:
    error = await explained(hang_up_when_spoken_to)
    assert isinstance(error, ConfigError)
    assert "LINESIDE_KAFKA__SECURITY_PROTOCOL" in str(error)


@pytest.mark.parametrize("servers", ["broker.invalid", "[::1]:1", "[::1]:1, broker.invalid"])
async def test_addresses_are_read_as_clients_read_them(servers: str) -> None:
    """Without a port, Kafka's own is meant; a colon may be part of an address."""
    connection = KafkaConnection(servers)
    assert isinstance(await explain_refusal(connection, OSError("gone")), DependencyDownError)
    with pytest.raises(DependencyDownError, match="no connection"):
        await KafkaWitness(connection, "lineside.embed")(None)
