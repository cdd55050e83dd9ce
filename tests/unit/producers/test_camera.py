from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from adapters.memory.clock import VirtualClock
from pipeline.errors import DependencyDownError
from producers.camera import Answer, Camera, Picture, SendOptions

Handler = Callable[[httpx.Request], httpx.Response]


def camera(handler: Handler, clock: VirtualClock, **options: float) -> Camera:
    client = httpx.AsyncClient(
        transport=httpx.MockTransport(handler), base_url="http://lineside", headers={"a": "b"}
    )
    return Camera(client, clock=clock, options=SendOptions(**options))  # type: ignore[arg-type] # int or float by name


def shot(name: str = "1.png") -> Picture:
    return Picture(name, b"pixels", {"product": "bearing"})


async def run(clock: VirtualClock, work: asyncio.Task[Answer]) -> Answer:
    await clock.run_until(work.done)
    return await work


async def test_a_busy_server_is_asked_again_after_the_time_it_named_with_the_same_key() -> None:
    clock, seen = VirtualClock(), []
    replies = [
        httpx.Response(429, headers={"Retry-After": "3"}),
        httpx.Response(507, headers={"Retry-After": "7"}),
        httpx.Response(202, json={"image_id": "a" * 32, "duplicate": False}),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((clock.monotonic(), request.headers["idempotency-key"]))
        return replies[len(seen) - 1]

    task = asyncio.create_task(camera(answer, clock).send(shot()))
    result = await run(clock, task)
    assert result.accepted == {"image_id": "a" * 32, "duplicate": False}
    assert result.tries == 3
    assert [at for at, _ in seen] == [0, 3, 10]
    assert len({key for _, key in seen}) == 1


async def test_a_lost_connection_is_tried_again() -> None:
    clock, tries = VirtualClock(), 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(202, json={})

    task = asyncio.create_task(camera(answer, clock).send(shot()))
    assert (await run(clock, task)).tries == 4


async def test_a_refusal_is_an_answer_and_is_not_tried_again() -> None:
    clock = VirtualClock()
    problem = {"type": "/problems/not_an_image", "detail": "the bytes are no picture"}
    task = asyncio.create_task(
        camera(lambda _: httpx.Response(415, json=problem), clock).send(shot())
    )
    answer = await run(clock, task)
    assert answer.refusal is not None
    assert (answer.refusal.status, answer.refusal.slug) == (415, "not_an_image")
    assert answer.tries == 1


async def test_patience_ends_with_an_error_that_names_the_picture() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(
        camera(lambda _: httpx.Response(503), clock, patience_s=60).send(shot("x.png"))
    )
    with pytest.raises(DependencyDownError, match=r"x\.png"):
        await run(clock, task)
    assert clock.monotonic() <= 60


async def test_pictures_leave_at_the_rate_and_every_one_is_answered() -> None:
    clock, times = VirtualClock(), []

    def answer(request: httpx.Request) -> httpx.Response:
        times.append(clock.monotonic())
        return httpx.Response(202, json={})

    async def everything() -> list[Answer]:
        pictures = (shot(f"{number}.png") for number in range(10))
        return [answer async for answer in camera(answer, clock, rate_per_s=2).stream(pictures)]

    task = asyncio.create_task(everything())
    await clock.run_until(task.done)
    assert sorted(answer.picture.name for answer in await task) == [f"{n}.png" for n in range(10)]
    assert times == [number / 2 for number in range(10)]
