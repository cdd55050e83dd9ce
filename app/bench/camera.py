"""A sender that costs next to nothing: a camera's own work is not the system's."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx


class Camera:
    """Uploads over one connection that it keeps."""

    def __init__(self, url: str) -> None:
        """`url` is the server's, such as `http://127.0.0.1:5000`."""
        address = urlsplit(url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._url = url
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        """Connect with the first `ready`."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self._close()

    async def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with suppress(OSError):
                await self._streams[1].wait_closed()

    def prepare(self, path: str, fields: dict[str, str], picture: bytes) -> bytes:
        """Return a form's request as it goes over the wire."""
        request = httpx.Request(
            "POST", f"{self._url}{path}", data=fields, files={"file": ("x.jpg", picture)}
        )
        lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + request.read()

    async def ready(self) -> None:
        """Connect, if the server has closed a connection that was idle for long."""
        if self._streams is None or self._streams[0].at_eof():
            await self._close()
            self._streams = await asyncio.open_connection(self._host, self._port)

    async def send(self, request: bytes) -> None:
        """Send what `prepare` returned and wait for the answer; call `ready` before.

        Raises:
            RuntimeError: the answer is no success; it says which.
        """
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status, *lines = head.split("\r\n")
        length = next(line for line in lines if line.startswith("content-length:"))
        body = await reader.readexactly(int(length.partition(":")[2]))
        if not status.split()[1].startswith("2"):
            raise RuntimeError(f"{status}: {body[:500].decode('utf-8', 'replace')}")
