"""An S3 server that answers badly: which error the pipeline sees."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from adapters.objects_s3 import S3Address, S3Objects
from pipeline.errors import DependencyDownError, PoisonError, StorageFullError

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>please reduce your rate</Message></Error>"


class Script:
    """What the server says next: status, body, how many bytes it promised, seconds it takes."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes, int | None, float]] = []


@contextmanager
def server() -> Iterator[tuple[S3Objects, Script]]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, promised, seconds = (
                script.answers.pop(0) if script.answers else (200, b"pixels", None, 0.0)
            )
            time.sleep(seconds)
            with suppress(BrokenPipeError):  # the client did not wait for a slow answer
                self.send_response(status)
                if body.startswith(b"<"):
                    self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body) if promised is None else promised))
                self.end_headers()
                self.wfile.write(body)

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    address = S3Address(f"127.0.0.1:{http.server_port}", "plant", "key", "secret")
    store = S3Objects(address, timeout_s=0.5)
    try:
        yield store, script
    finally:
        store.close()
        http.shutdown()
        http.server_close()
        thread.join()


async def test_503_five_times_is_an_outage_each_time_and_then_the_bytes_come() -> None:
    with server() as (store, script):
        script.answers += [(503, SLOW_DOWN, None, 0.0)] * 4
        script.answers += [(503, b"upstream gone", None, 0.0)]
        for _ in range(5):
            with pytest.raises(DependencyDownError) as caught:
                await store.get("images/1")
            assert caught.value.dependency == "objects"
        assert await store.get("images/1") == b"pixels"


async def test_a_server_that_is_slower_than_the_limit_is_an_outage_and_no_poison() -> None:
    with server() as (store, script):
        script.answers = [(200, b"late", None, 1.2)] * 2
        with pytest.raises(DependencyDownError):
            await store.get("images/1")
        assert await store.get("images/1") == b"pixels"


async def test_a_body_that_breaks_off_is_an_outage_and_never_half_an_object() -> None:
    with server() as (store, script):
        script.answers = [(200, b"half", 400, 0.0)]
        with pytest.raises(DependencyDownError):
            await store.get("images/1")
        assert await store.get("images/1") == b"pixels"


async def test_a_missing_object_is_poison_and_a_full_store_is_a_full_store() -> None:
    missing = b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"
    full = b"<Error><Code>XMinioStorageFull</Code><Message>full</Message></Error>"
    with server() as (store, script):
        script.answers = [(404, missing, None, 0.0)]
        with pytest.raises(PoisonError) as caught:
            await store.get("images/1")
        assert caught.value.reason == "object_missing"
        script.answers = [(507, full, None, 0.0)]
        with pytest.raises(StorageFullError):
            await store.put("images/1", b"pixels", content_type="image/png")
