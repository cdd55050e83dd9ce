"""`/health`, `/ready` and `/metrics` of a worker role, served by a thread of its own.

A thread answers also while the event loop is busy; `/health` then still tells the truth, because
the loop has to report its own life.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pipeline.errors import ConfigError

logger = logging.getLogger(__name__)

_BEAT_S = 0.5


class HealthServer:
    """Serves the three paths until cancelled; a Service.

    `/health` is 200 while the event loop turns, 503 when it stood still for `frozen_after_s`.
    `/ready` is 200, or 503 with reasons, as the services told the event loop last.
    """

    name = "health"

    def __init__(
        self,
        not_ready: Callable[[], Sequence[str]],
        metrics: Callable[[], tuple[bytes, str]],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        frozen_after_s: float = 30.0,
    ) -> None:
        """Keep what to ask; `not_ready` is only ever called on the event loop.

        Args:
            not_ready: reasons why the role cannot work, none when it can.
            metrics: body and content type of `/metrics`.
            host: where to listen.
            port: 0 takes a free one, see `port` once it runs.
            frozen_after_s: how long the event loop may stand still.
        """
        self._not_ready_reasons = not_ready
        self._metrics = metrics
        self._address = (host, port)
        self._frozen_after_s = frozen_after_s
        self._beat_at = time.monotonic()
        self._reasons: Sequence[str] = ("starting",)
        self.port = port
        self.listening = asyncio.Event()

    def not_ready(self) -> Sequence[str]:
        """Nothing: it has no say in whether the role can work."""
        return ()

    async def run(self) -> None:
        """Listen until cancelled.

        Raises:
            ConfigError: the port is in use.
        """
        try:
            server = _Server(self._address, self)
        except OSError as error:
            host, port = self._address
            raise ConfigError(
                f"health port {port} on {host} cannot be opened ({error.strerror}); "
                "choose another one, or 0 for a free one"
            ) from None
        self.port = int(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        self.listening.set()
        try:
            while True:
                self._beat_at = time.monotonic()
                self._reasons = tuple(self._not_ready_reasons())
                await asyncio.sleep(_BEAT_S)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, path: str) -> tuple[int, bytes, str]:
        """Return status, body and content type for a path; called from the server's threads."""
        if path == "/metrics":
            return (200, *self._metrics())
        stood_still_s = time.monotonic() - self._beat_at
        if stood_still_s > self._frozen_after_s:
            return _as_json(503, {"status": "frozen", "stood_still_s": round(stood_still_s, 1)})
        if path == "/health":
            return _as_json(200, {"status": "alive"})
        if path == "/ready":
            reasons = list(self._reasons)
            status = "not ready" if reasons else "ready"
            return _as_json(503 if reasons else 200, {"status": status, "reasons": reasons})
        return _as_json(404, {"status": "unknown path", "paths": ["/health", "/ready", "/metrics"]})


def _as_json(status: int, body: dict[str, object]) -> tuple[int, bytes, str]:
    return status, json.dumps(body, ensure_ascii=False).encode(), "application/json"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], health: HealthServer) -> None:
        self.health = health
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10  # a peer that connects and says nothing frees its thread

    def do_GET(self) -> None:
        status, body, content_type = self.server.health.answer(self.path.split("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        # Whoever asked may have lost patience, for one while this process stood still.
        with contextlib.suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing: a probe every second is no news."""
