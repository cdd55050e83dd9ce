from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from adapters.memory.clock import VirtualClock
from notifier.access import COOKIE, Access, AccessRules
from tests.feed_rig import FeedRig

TOKEN = "a-long-secret-for-the-plant"
Open = Callable[..., httpx.AsyncClient]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def browse(clock: VirtualClock) -> AsyncIterator[Open]:
    app = FastAPI()

    @app.get("/")
    @app.get("/health")
    @app.get("/v1/images")
    @app.post("/v1/images")
    async def answer() -> str:
        return "in"

    clients: list[httpx.AsyncClient] = []

    def open_client(
        tokens: tuple[str, ...] = (), allowed: tuple[str, ...] = ()
    ) -> httpx.AsyncClient:
        rules = AccessRules(tokens, allowed)
        guarded = Access(app, rules, monotonic=clock.monotonic)
        transport = httpx.ASGITransport(guarded)
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://plant.local:5000"))
        return clients[-1]

    yield open_client
    for client in clients:
        await client.aclose()


async def test_on_loopback_nothing_is_asked(browse: Open) -> None:
    client = browse()
    assert (await client.get("/")).status_code == 200
    assert (await client.post("/v1/images")).status_code == 200
    assert (await client.get("/login")).status_code == 303


async def test_without_a_token_only_health_answers(browse: Open) -> None:
    client = browse((TOKEN,))
    assert (await client.get("/health")).status_code == 200
    refused = await client.get("/v1/images")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["content-type"] == "application/problem+json"
    assert "/login" in refused.json()["detail"]
    assert refused.json()["slug"] == "token_needed"


async def test_a_bearer_token_opens(browse: Open) -> None:
    client = browse((TOKEN, "another-secret"))
    for token, status in ((TOKEN, 200), ("another-secret", 200), (TOKEN[:-1], 401), ("", 401)):
        headers = {"Authorization": f"Bearer {token}"}
        assert (await client.post("/v1/images", headers=headers)).status_code == status
    basic = {"Authorization": f"Basic {TOKEN}"}
    assert (await client.get("/", headers=basic)).status_code == 401


async def test_the_login_gives_a_cookie_that_is_not_the_token(browse: Open) -> None:
    client = browse((TOKEN,))
    page = await client.get("/", headers={"accept": "text/html"})
    assert page.status_code == 401
    assert 'action="/login"' in page.text
    entered = await client.get("/login", params={"token": TOKEN})
    assert entered.status_code == 303
    assert entered.headers["location"] == "./"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert TOKEN not in cookie
    assert (await client.get("/v1/images")).status_code == 200
    client.cookies.clear()
    client.cookies.set(COOKIE, "0" * 64)
    assert (await client.get("/v1/images")).status_code == 401
    assert (await client.get("/login", params={"token": "wrong"})).status_code == 401


async def test_guessing_is_slowed_down_and_does_not_lock_the_cameras_out(
    browse: Open, clock: VirtualClock
) -> None:
    client = browse((TOKEN,))
    right, wrong = ({"Authorization": f"Bearer {token}"} for token in (TOKEN, "wrong"))
    await client.get("/login", params={"token": TOKEN})
    cookie = dict(client.cookies)
    client.cookies.clear()
    answers = [(await client.get("/", headers=wrong)).status_code for _ in range(40)]
    assert answers[0] == 401
    assert answers[-1] == 429
    assert (await client.get("/login", params={"token": TOKEN})).status_code == 429
    assert (await client.post("/v1/images", headers=right)).status_code == 200
    client.cookies.update(cookie)
    assert (await client.get("/")).status_code == 200
    client.cookies.clear()
    await clock.advance(61)
    assert (await client.get("/", headers=wrong)).status_code == 401
    assert (await client.get("/login", params={"token": TOKEN})).status_code == 303


@pytest.mark.parametrize(
    ("headers", "allowed", "status"),
    [
        ({}, (), 200),
        ({"Origin": "http://plant.local:5000"}, (), 200),
        ({"Origin": "http://plant.local"}, (), 200),
        ({"Origin": "https://evil.example"}, (), 403),
        ({"Origin": "http://plant.local.evil.example"}, (), 403),
        ({"Origin": "null"}, (), 403),
        ({"Origin": "http://[broken"}, (), 403),
        ({"Origin": "https://mes.plant"}, ("https://mes.plant",), 200),
        ({"Origin": "http://mes.plant"}, ("https://mes.plant",), 403),
        ({"Origin": "https://any.where"}, ("*",), 200),
        ({"Origin": "https://public.plant", "X-Forwarded-Host": "public.plant:8443"}, (), 200),
        ({"Origin": "https://evil.example", "X-Forwarded-Host": "public.plant"}, (), 403),
    ],
)
async def test_a_foreign_page_may_not_change_anything(
    browse: Open, headers: dict[str, str], allowed: tuple[str, ...], status: int
) -> None:
    client = browse((), allowed)
    assert (await client.post("/v1/images", headers=headers)).status_code == status


async def test_a_foreign_page_gets_no_feed_and_a_client_without_token_neither() -> None:
    rig = FeedRig()
    clock = VirtualClock()
    rules = AccessRules((TOKEN,))
    async with rig.notifier(lambda app: Access(app, rules, monotonic=clock.monotonic)):
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        address = f"ws://{rig.url}/v1/feed"
        for headers, status in (
            ({}, 401),
            ({**bearer, "Origin": "https://evil.example"}, 403),
            ({"Origin": f"http://{rig.url}"}, 401),
        ):
            with pytest.raises(InvalidStatus) as caught:
                await connect(address, additional_headers=headers)
            assert caught.value.response.status_code == status
        for headers in (bearer, {**bearer, "Origin": f"http://{rig.url}"}):
            async with connect(address, additional_headers=headers) as socket:
                await socket.send("{}")
                assert "hello" in str(await socket.recv())


async def test_a_websocket_is_refused_also_by_a_server_that_cannot_answer_it() -> None:
    sent: list[dict[str, object]] = []

    async def never(scope: object, receive: object, send: object) -> None:
        raise AssertionError

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    access = Access(never, AccessRules((TOKEN,)), monotonic=VirtualClock().monotonic)
    scope = {"type": "websocket", "path": "/v1/feed", "headers": [], "extensions": {}}
    await access(scope, None, send)  # type: ignore[arg-type] # nothing is received
    assert sent[0]["type"] == "websocket.close"
