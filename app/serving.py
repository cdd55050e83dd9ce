"""uvicorn as a service of a process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import uvicorn

from console.problems import problem
from pipeline.errors import ConfigError


class HttpServer:
    """Serves one ASGI app until cancelled; open requests get a moment to finish.

    permessage-deflate is off: it doubles the CPU per message and keeps a frame from being
    prepared once for all clients.
    """

    def __init__(self, name: str, app: Any, *, host: str, port: int, setting: str) -> None:
        """`setting` names the port in an error."""
        self.name = name
        self._app = app
        self._host = host
        self._port = port
        self._setting = setting

    def not_ready(self) -> Sequence[str]:
        """Nothing: who can ask is served."""
        return ()

    async def run(self) -> None:
        """Listen until cancelled.

        Raises:
            ConfigError: the port is in use.
        """
        config = uvicorn.Config(
            _Farewell(self._app),
            host=self._host,
            port=self._port,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=3,
            # A camera keeps its connection between two parts.
            timeout_keep_alive=75,
        )
        server = _QuietServer(config)
        serving = asyncio.create_task(server.serve())
        try:
            await asyncio.shield(serving)
        except SystemExit:
            raise ConfigError(
                f"port {self._port} on {self._host} cannot be used; set {self._setting}"
            ) from None
        except asyncio.CancelledError:
            server.should_exit = True
            await serving
            raise


class _Farewell:
    """Tells requests that outlast the server to come again, where it would answer 500."""

    def __init__(self, app: Any) -> None:
        """Wrap an ASGI app."""
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection; uvicorn cancels what is not done when it stops."""
        has_begun = False

        async def note(message: Any) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            if has_begun or scope["type"] != "http":
                raise
            detail = "the server stops before this is done; send it again"
            await problem(503, "stopping", detail, retry_after_s=1)(scope, receive, send)


class _QuietServer(uvicorn.Server):
    """Leaves signals to `run_services`, which stops all services in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Capture none."""
        yield
