"""A TCP proxy that breaks connections on demand, to stand before a broker, a store or a database.

Clients of Kafka follow what a broker advertises, so a node behind a proxy must advertise it:
`EmbeddedBroker(advertise=…)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

Mode = Literal[
    "pass",
    "cut",  # connections are reset, new ones as soon as they are accepted
    "refuse",  # nobody listens; open connections go on
    "delay",  # every piece waits `delay_s`, both ways
    "blackhole",  # accepted and never answered; goes on when the mode ends, as a healed network
    "half_open",  # open connections are dead for good and are told nothing, new ones work
    "throttle",  # each direction of a connection gets `bytes_per_s`
]
MODES: tuple[Mode, ...] = get_args(Mode)

_HOST = "127.0.0.1"
_PIECE_BYTES = 65_536
_CONNECT_LIMIT_S = 10.0


@dataclass(eq=False, slots=True)
class _Line:
    """A client's connection, and the one that was made for it."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    dead: bool = False
    # Something was asked and not yet answered.
    asked: bool = False

    def writers(self) -> list[asyncio.StreamWriter]:
        return [self.near] if self.far is None else [self.near, self.far]

    def reset(self) -> None:
        for writer in self.writers():
            _reset(writer)


@dataclass(slots=True)
class FaultProxy:
    """Listens on `port`, a free one when 0, and passes on to where it is aimed.

    `hits` counts per mode the connections and pieces that it acted on; `cut_short` the
    connections that were reset or went dead between a question and its answer. What `refuse`
    turns away never reaches a proxy and is not counted.
    """

    name: str = "proxy"
    port: int = 0
    delay_s: float = 0.2
    bytes_per_s: int = 20_000
    mode: Mode = "pass"
    hits: Counter[Mode] = field(default_factory=Counter)
    cut_short: int = 0
    accepted: int = 0
    _target: tuple[str, int] | None = None
    _turned: asyncio.Event = field(default_factory=asyncio.Event)
    _lines: set[_Line] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _claim: socket.socket | None = None

    @property
    def address(self) -> str:
        """Where clients connect, `host:port`."""
        return f"{_HOST}:{self.port}"

    @property
    def open_lines(self) -> int:
        """Connections that clients hold open."""
        return len(self._lines)

    def aim(self, port: int, host: str = _HOST) -> int:
        """Pass on to `host:port` from the next connection on; returns the proxy's own port."""
        self._target = (host, port)
        return self.port

    async def __aenter__(self) -> Self:
        """Take the port and listen."""
        self._claim = socket.socket()
        # Bound and never listening: it keeps the port ours while `refuse` closes the listener.
        self._claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._claim.bind((_HOST, self.port))
        self.port = self._claim.getsockname()[1]
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Reset what is open and give the port back."""
        self._stop_listening()
        for line in tuple(self._lines):
            line.reset()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._claim is not None:
            self._claim.close()

    async def turn(self, mode: Mode) -> None:
        """Switch the mode; in effect when this returns."""
        self.mode = mode
        if mode in {"cut", "half_open"}:
            self._kill_open_lines(mode)
        if mode == "refuse":
            self._stop_listening()
        elif self._server is None:
            await self._listen()
        self._turned.set()
        self._turned = asyncio.Event()

    def _kill_open_lines(self, mode: Mode) -> None:
        for line in tuple(self._lines):
            if line.dead:
                continue
            self.hits[mode] += 1
            self.cut_short += line.asked
            line.dead = True
            if mode == "cut":
                line.reset()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, _HOST, self.port)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.mode == "cut":
            self.hits["cut"] += 1
            _reset(writer)
            return
        task = asyncio.create_task(self._serve(_Line(writer), reader))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, line: _Line, reader: asyncio.StreamReader) -> None:
        self._lines.add(line)
        try:
            await self._carry(line, reader)
        except OSError:
            # Nobody is where it is aimed: the client learns it by the reset.
            return
        finally:
            line.reset()
            self._lines.discard(line)

    async def _carry(self, line: _Line, near: asyncio.StreamReader) -> None:
        while self.mode == "blackhole" and not line.dead:
            self.hits["blackhole"] += 1
            await self._turned.wait()
        if self._target is None or line.dead:
            return
        async with asyncio.timeout(_CONNECT_LIMIT_S):
            far, line.far = await asyncio.open_connection(*self._target)
        asking = asyncio.create_task(self._pump(line, near, line.far, asks=True))
        answering = asyncio.create_task(self._pump(line, far, line.near, asks=False))
        try:
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            # The far end gives a dead line up some day; the client is told nothing of that.
            await asking
            if not line.dead:
                await answering
        finally:
            asking.cancel()
            answering.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)

    async def _pump(
        self,
        line: _Line,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        asks: bool,
    ) -> None:
        """Pass one direction on until its end; a dead line swallows what still comes."""
        try:
            while piece := await reader.read(_PIECE_BYTES):
                line.asked = asks
                await self._hinder(line, len(piece))
                if not line.dead:
                    writer.write(piece)
                    await writer.drain()
            if not line.dead:
                writer.write_eof()
        except (OSError, RuntimeError):
            # Either end is gone: so is the line.
            if not line.dead:
                line.reset()

    async def _hinder(self, line: _Line, size: int) -> None:
        while self.mode == "blackhole" and not line.dead:
            self.hits["blackhole"] += 1
            await self._turned.wait()
        if line.dead:
            return
        wait_s = {"delay": self.delay_s, "throttle": size / self.bytes_per_s}.get(self.mode)
        if wait_s is None:
            return
        self.hits[self.mode] += 1
        with contextlib.suppress(TimeoutError):
            # Ends with the mode: what waits then goes on at once.
            await asyncio.wait_for(self._turned.wait(), wait_s)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by a reset, as a middlebox does, not by a polite end."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
