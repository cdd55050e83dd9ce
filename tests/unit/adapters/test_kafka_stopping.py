from __future__ import annotations

import asyncio

import pytest
from aiokafka import errors

from adapters.kafka.connection import stop_quietly


class Client:
    """A client whose `stop` ends as it is told to; `closed` counts closed connections."""

    def __init__(self, ending: BaseException | None = None, *, hangs: bool = False) -> None:
        self._client = self
        self._ending = ending
        self._hangs = hangs
        self.closed = 0

    async def stop(self) -> None:
        if self._hangs:
            await asyncio.Event().wait()
        if isinstance(self._ending, asyncio.CancelledError):
            fetch = asyncio.ensure_future(asyncio.sleep(60))
            fetch.cancel()
            await fetch
        if self._ending is not None:
            raise self._ending
        await self.close()

    async def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    "ending", [None, asyncio.CancelledError(), errors.KafkaConnectionError(), OSError()]
)
async def test_a_stop_that_breaks_off_neither_cancels_its_caller_nor_leaves_connections(
    ending: BaseException | None,
) -> None:
    client = Client(ending)
    await stop_quietly(client)
    assert client.closed == 1


async def test_a_stop_that_hangs_is_given_up() -> None:
    client = Client(hangs=True)
    await stop_quietly(client, 0.01)
    assert client.closed == 1


async def test_a_caller_that_is_cancelled_meanwhile_is_cancelled() -> None:
    stopping = asyncio.create_task(stop_quietly(Client(hangs=True)))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping


async def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="wrong"):
        await stop_quietly(Client(ValueError("wrong")))
