"""More uploads at once than fit: senders are told to wait, and memory stays flat."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

from adapters.clock import SystemClock
from producers.camera import Camera, Picture, SendOptions
from tests.lost_log_rig import poll
from tests.services import free_port

SERVER = Path(__file__).with_name("overload_server.py")
ROOT = Path(__file__).parents[2]
GATE_BYTES = 12_000_000
SENDERS = 48
EACH = 3


def picture_of_3_mb(number: int, folder: Path) -> bytes:
    rng = np.random.default_rng(number)
    path = folder / f"{number}.bmp"
    Image.fromarray(rng.integers(0, 256, (1000, 1000, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


class Watched(httpx.AsyncClient):
    """Counts answers, and checks that those who must wait are told how long."""

    def __init__(self, url: str) -> None:
        super().__init__(base_url=url, timeout=60, trust_env=False)
        self.seen: Counter[int] = Counter()

    async def post(self, *args: object, **kwargs: object) -> httpx.Response:
        answer = await super().post(*args, **kwargs)  # type: ignore[arg-type]  # as above
        self.seen[answer.status_code] += 1
        assert answer.status_code == 202 or int(answer.headers["Retry-After"]) > 0
        return answer


@asynccontextmanager
async def server(state: Path) -> AsyncIterator[tuple[Watched, psutil.Process]]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SERVER), str(state), str(port), str(GATE_BYTES),
        cwd=ROOT, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        async with Watched(f"http://127.0.0.1:{port}") as client:

            async def answers() -> bool:
                try:
                    return (await client.get("/nothing")).status_code == 404
                except httpx.TransportError:
                    return False

            await poll(answers, "the server answers")
            yield client, psutil.Process(process.pid)
    finally:
        process.kill()
        await process.wait()


class Peak:
    """The most memory that a process held while it was watched."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.base = self.bytes = process.memory_info().rss

    async def watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._process.memory_info().rss)
            await asyncio.sleep(0.01)


async def test_memory_stays_flat_when_ten_times_more_is_sent_than_fits(tmp_path: Path) -> None:
    data = [picture_of_3_mb(number, tmp_path) for number in range(EACH)]
    async with server(tmp_path) as (client, process):
        camera = Camera(client, clock=SystemClock(), options=SendOptions(patience_s=120))

        async def sender(name: str) -> int:
            taken = 0
            for number, one in enumerate(data):
                fields = {"product": "cap", "part_id": f"{name}-{number}"}
                answer = await camera.send(Picture("x.bmp", one, fields))
                taken += answer.accepted is not None
            return taken

        await sender("warm")
        peak = Peak(process)
        watching = asyncio.create_task(peak.watch())
        began = time.monotonic()
        taken = sum(await asyncio.gather(*(sender(str(n)) for n in range(SENDERS))))
        seconds = time.monotonic() - began
        watching.cancel()
    grown = peak.bytes - peak.base
    print(f"{taken} pictures of 3 MB in {seconds:.1f} s, grown by {grown / 1e6:.0f} MB")
    print(f"answers: {dict(client.seen)}")
    assert taken == SENDERS * EACH
    assert client.seen[429] > 0
    with sqlite3.connect(tmp_path / "lineside.db") as tables:
        (rows,) = tables.execute("SELECT count(*) FROM images WHERE state = 'accepted'").fetchone()
    assert rows == taken + EACH
    # Each admitted byte is held twice for a moment; 48 senders without a gate would be 288 MB.
    assert grown < 2 * GATE_BYTES + 20_000_000
