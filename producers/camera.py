"""A camera's side of `POST /v1/images`: sends pictures at a rate and loses none."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from pipeline.errors import DependencyDownError, RefusedError
from pipeline.ports import Clock

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 507})


@dataclass(frozen=True, slots=True)
class Picture:
    """One capture. `fields` are the form's: product, source, part_id, anomaly and so on.

    `idempotency_key` stays the same over all tries, so that a picture whose answer got lost is
    one image.
    """

    name: str
    data: bytes
    fields: Mapping[str, str]
    idempotency_key: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a picture: the 202's body, or the refusal."""

    picture: Picture
    accepted: Mapping[str, Any] | None = None
    refusal: RefusedError | None = None
    tries: int = 1


@dataclass(frozen=True, slots=True)
class SendOptions:
    """`rate_per_s` None sends as fast as the answers come, `at_once` of them side by side."""

    rate_per_s: float | None = None
    at_once: int = 4
    patience_s: float = 300.0


class Camera:
    """Sends pictures; `client` has the base URL, and the token's header where one is needed."""

    def __init__(
        self, client: httpx.AsyncClient, *, clock: Clock, options: SendOptions | None = None
    ) -> None:
        """Only assign."""
        self._client = client
        self._clock = clock
        self._options = options or SendOptions()

    async def send(self, picture: Picture) -> Answer:
        """Send one picture, again and again while the server asks to come back later.

        Raises:
            DependencyDownError: `lineside`, no answer within `patience_s`.
        """
        deadline_s = self._clock.monotonic() + self._options.patience_s
        tries = 0
        while True:
            tries += 1
            response = await self._try(picture)
            if response is not None and response.status_code not in _AGAIN:
                return _answer(picture, response, tries)
            pause_s = _pause_s(response, tries)
            if self._clock.monotonic() + pause_s > deadline_s:
                message = f"{picture.name}: no answer in {self._options.patience_s:g} s"
                raise DependencyDownError("lineside", message)
            await self._clock.sleep(pause_s)

    async def stream(self, pictures: Iterable[Picture]) -> AsyncIterator[Answer]:
        """Send pictures at the rate, in order of starting; yields answers as they come.

        Raises:
            DependencyDownError: as `send`; what is under way is cancelled.
        """
        running: set[asyncio.Task[Answer]] = set()
        start_s, queue = self._clock.monotonic(), iter(pictures)
        try:
            for number, picture in enumerate(queue):
                await self._wait_for_turn(start_s, number)
                running.add(asyncio.create_task(self.send(picture)))
                while len(running) >= self._options.at_once:
                    for answer in await _some(running):
                        yield answer
            while running:
                for answer in await _some(running):
                    yield answer
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _wait_for_turn(self, start_s: float, number: int) -> None:
        rate = self._options.rate_per_s
        if rate is not None:
            wait_s = start_s + number / rate - self._clock.monotonic()
            if wait_s > 0:
                await self._clock.sleep(wait_s)

    async def _try(self, picture: Picture) -> httpx.Response | None:
        try:
            return await self._client.post(
                "/v1/images",
                data=dict(picture.fields),
                files={"file": (picture.name, picture.data, "application/octet-stream")},
                headers={"Idempotency-Key": picture.idempotency_key},
            )
        except httpx.TransportError:
            return None


async def _some(running: set[asyncio.Task[Answer]]) -> list[Answer]:
    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    running -= done
    return [task.result() for task in done]


def _answer(picture: Picture, response: httpx.Response, tries: int) -> Answer:
    body = _json(response)
    if response.status_code == 202:
        return Answer(picture, accepted=body, tries=tries)
    slug = str(body.get("type", f"http_{response.status_code}")).rpartition("/")[2]
    detail = str(body.get("detail", response.reason_phrase))
    return Answer(picture, refusal=RefusedError(response.status_code, slug, detail), tries=tries)


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _pause_s(response: httpx.Response | None, tries: int) -> float:
    asked = response.headers.get("retry-after", "") if response is not None else ""
    if asked.isdecimal():
        return min(60.0, float(asked))
    # Spread, so that many cameras do not come back in one moment.
    return min(10.0, 0.2 * float(2 ** min(tries, 8))) * (0.5 + random.random() / 2)  # noqa: S311 - no secret
