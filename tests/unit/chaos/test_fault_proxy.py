from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from app.chaos.fault_proxy import FaultProxy
from tests.services import until

PATIENCE_S = 10.0
# Long enough to be no accident on a loaded machine, where something must *not* happen.
SILENCE_S = 0.3


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """Says everything back; yields its port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        while Client.opened:
            Client.opened.pop().close()
        await until(lambda: not _others(), "every connection has ended")


def _others() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


@asynccontextmanager
async def proxied() -> AsyncIterator[FaultProxy]:
    async with echo_server() as port, FaultProxy() as proxy:
        proxy.aim(port)
        yield proxy


class Client:
    """One connection that asks and gets its words back."""

    opened: ClassVar[list[Client]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.opened.append(self)

    @classmethod
    async def open(cls, proxy: FaultProxy) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def ask(self, words: bytes, limit_s: float = PATIENCE_S) -> bytes:
        self.writer.write(words)
        return await asyncio.wait_for(self.reader.readexactly(len(words)), limit_s)

    def close(self) -> None:
        self.writer.transport.abort()


async def test_what_goes_in_comes_out_however_much_it_is() -> None:
    async with proxied() as proxy:
        client = await Client.open(proxy)
        words = bytes(range(256)) * 4000
        assert await client.ask(words) == words
        client.writer.write_eof()
        assert await asyncio.wait_for(client.reader.read(), PATIENCE_S) == b""
        await until(lambda: proxy.open_lines == 0, "the line ends with its client")
        assert sum(proxy.hits.values()) == 0


async def test_cut_resets_open_connections_and_every_new_one() -> None:
    async with proxied() as proxy:
        client = await Client.open(proxy)
        await client.ask(b"hello")
        await proxy.turn("cut")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await client.ask(b"more")
        # The reset may come while the connection is being made, or after.
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await (await Client.open(proxy)).ask(b"again")
        assert proxy.hits["cut"] == 2
        await proxy.turn("pass")
        healed = await Client.open(proxy)
        assert await healed.ask(b"back") == b"back"
        healed.close()


async def test_a_cut_between_question_and_answer_is_told_apart() -> None:
    async with proxied() as proxy:
        idle, busy = await Client.open(proxy), await Client.open(proxy)
        await idle.ask(b"done")
        await busy.ask(b"done")
        await proxy.turn("blackhole")
        busy.writer.write(b"question")
        await until(lambda: proxy.hits["blackhole"] > 0, "the question is held")
        await proxy.turn("cut")
        assert (proxy.hits["cut"], proxy.cut_short) == (2, 1)


async def test_refuse_lets_nobody_in_and_leaves_open_connections_alone() -> None:
    async with proxied() as proxy:
        client = await Client.open(proxy)
        await client.ask(b"hello")
        await proxy.turn("refuse")
        with pytest.raises(ConnectionRefusedError):
            await Client.open(proxy)
        assert await client.ask(b"still") == b"still"
        await proxy.turn("pass")
        late = await Client.open(proxy)
        assert await late.ask(b"in") == b"in"
        client.close()
        late.close()


async def test_delay_holds_every_piece_both_ways() -> None:
    async with proxied() as proxy:
        proxy.delay_s = 0.1
        client = await Client.open(proxy)
        await client.ask(b"fast")
        await proxy.turn("delay")
        started = time.monotonic()
        assert await client.ask(b"slow") == b"slow"
        assert time.monotonic() - started >= 0.2
        assert proxy.hits["delay"] == 2
        client.close()


async def test_blackhole_accepts_and_never_answers_until_it_ends() -> None:
    async with proxied() as proxy:
        client = await Client.open(proxy)
        await client.ask(b"hello")
        await proxy.turn("blackhole")
        stranger = await Client.open(proxy)
        for one in (client, stranger):
            with pytest.raises(TimeoutError):
                await one.ask(b"?", SILENCE_S)
        assert proxy.hits["blackhole"] == 2
        await proxy.turn("pass")
        # As when a network heals: what was sent meanwhile arrives, unbroken.
        for one in (client, stranger):
            assert await asyncio.wait_for(one.reader.readexactly(1), PATIENCE_S) == b"?"
            one.close()


async def test_half_open_kills_silently_what_was_open_for_good_and_lets_new_ones_work() -> None:
    async with proxied() as proxy:
        old = await Client.open(proxy)
        await old.ask(b"hello")
        await proxy.turn("half_open")
        with pytest.raises(TimeoutError):
            await old.ask(b"?", SILENCE_S)
        new = await Client.open(proxy)
        assert await new.ask(b"new") == b"new"
        await proxy.turn("pass")
        with pytest.raises(TimeoutError):
            await old.ask(b"?", SILENCE_S)
        assert await new.ask(b"new") == b"new"
        assert proxy.hits["half_open"] == 1
        old.close()
        new.close()
        await until(lambda: proxy.open_lines == 0, "a dead line ends with its client")


async def test_throttle_lets_only_so_much_through_in_a_second() -> None:
    async with proxied() as proxy:
        proxy.bytes_per_s = 50_000
        client = await Client.open(proxy)
        await client.ask(b"fast")
        await proxy.turn("throttle")
        started = time.monotonic()
        await client.ask(bytes(10_000))
        assert time.monotonic() - started >= 0.4
        assert proxy.hits["throttle"] >= 2
        client.close()


async def test_a_target_that_is_away_looks_like_a_reset_and_a_new_aim_works() -> None:
    async with echo_server() as port, FaultProxy() as proxy:
        assert proxy.aim(1) == proxy.port
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await (await Client.open(proxy)).ask(b"anyone?")
        proxy.aim(port)
        client = await Client.open(proxy)
        assert await client.ask(b"here") == b"here"
        client.close()


async def test_closing_the_proxy_frees_its_port_and_resets_what_is_open() -> None:
    async with proxied() as proxy:
        client = await Client.open(proxy)
        await client.ask(b"hello")
        await proxy.turn("blackhole")
        client.writer.write(b"held")
        await until(lambda: proxy.hits["blackhole"] > 0, "the question is held")
        port = proxy.port
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await client.reader.readexactly(1)
    async with FaultProxy(port=port) as again:
        assert again.port == port
