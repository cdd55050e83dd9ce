from __future__ import annotations

import httpx

from adapters.telemetry import PrometheusTelemetry
from app.cli.status import _outbox


async def test_status_reads_what_waits_from_the_web_roles_measurements() -> None:
    telemetry = PrometheusTelemetry()
    telemetry.gauge("outbox_pending", 41)
    telemetry.gauge("outbox_oldest_seconds", 12.5)
    telemetry.gauge("outbox_refused", 1)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "gone":
            raise httpx.ConnectError("nobody listens")
        return httpx.Response(200, content=telemetry.exposition())

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        told = {"pending": 41, "oldest_s": 12.5, "refused": 1}
        assert await _outbox(client, "http://web") == told
        for nobody in (None, "http://gone"):
            assert await _outbox(client, nobody) == dict.fromkeys(told)
