from __future__ import annotations

import httpx
import pytest

from app.client import Client
from pipeline.errors import ConfigError, RefusedError


def client_of(answer: httpx.Response) -> Client:
    client = Client("http://line:5000")
    transport = httpx.MockTransport(lambda _: answer)
    client._http = httpx.Client(base_url=client.url, transport=transport)
    return client


def test_a_missing_token_names_the_variable_that_holds_it() -> None:
    refusal = {"slug": "token_needed", "detail": "open /login?token=TOKEN"}
    with (
        client_of(httpx.Response(401, json=refusal)) as client,
        pytest.raises(RefusedError, match="set LINESIDE_TOKEN"),
    ):
        client.get("/v1/dead-letters")


@pytest.mark.parametrize("content", [b"<html>AirTunes</html>", b"[1]"])
def test_another_program_on_the_port_is_told_from_lineside(content: bytes) -> None:
    with (
        client_of(httpx.Response(200, content=content)) as client,
        pytest.raises(ConfigError, match="http://line:5000 is no Lineside"),
    ):
        client.get("/v1/dead-letters")
