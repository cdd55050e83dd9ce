"""The feed's two doors: `WS /v1/feed` and `GET /v1/feed/stream` (interfaces.md section 4)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Header, Query, Response, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.types import Receive, Scope, Send

from notifier.catch_up import FeedResetError, Hello, Session, SlowClientError
from notifier.feed import Feed
from notifier.hub import Entry, FeedFilter
from pipeline.errors import DependencyDownError, RefusedError, StalledError

_SLOW = 4008
_BAD_REQUEST = 4000
_RESTART = 1012
_TRY_LATER = 1013
# A close frame's reason holds 123 bytes (RFC 6455 section 5.5).
_REASON_BYTES = 123
_CLOSING_S = 5.0

Out = Callable[[str, Entry | None], Awaitable[None]]


class Subscription(BaseModel):
    """A client's first message."""

    model_config = ConfigDict(extra="ignore")

    subscribe: FeedFilter = FeedFilter()
    position: str = "latest"


class StreamQuery(FeedFilter):
    """The same as query parameters, each list by repeating its name."""

    position: str = "latest"


class Closing(NamedTuple):
    """Why the feed ends a connection."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class FeedTimes:
    """The protocol's times in seconds."""

    heartbeat_s: float = 5.0
    subscribe_within_s: float = 10.0


def build_router(feed: Feed, times: FeedTimes | None = None) -> APIRouter:
    """Build the feed's routes; origins and tokens are `notifier.access`'s business."""
    router = APIRouter(tags=["feed"])
    timing = times or FeedTimes()

    @router.websocket("/v1/feed")
    async def websocket_feed(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            closing = await _serve_websocket(websocket, feed, timing)
        except WebSocketDisconnect:
            return
        with contextlib.suppress(TimeoutError, RuntimeError):
            async with asyncio.timeout(_CLOSING_S):
                await websocket.close(closing.code, closing.reason)

    @router.get("/v1/feed/stream", summary="The live feed as server-sent events")
    async def stream_feed(
        query: Annotated[StreamQuery, Query()],
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        if not feed.hub.is_open:
            raise RefusedError(503, "feed_away", "the feed has not begun yet", retry_after_s=1)
        session = Session(feed, query)
        try:
            hello = await session.open(last_event_id or query.position)
        except ValueError as error:
            raise RefusedError(422, "bad_position", str(error)) from None
        except DependencyDownError as error:
            detail = "the broker is away, and without it this position cannot be found"
            raise RefusedError(503, "broker_away", detail, retry_after_s=2) from error
        return EventStream(session, hello, timing)

    return router


async def _serve_websocket(websocket: WebSocket, feed: Feed, times: FeedTimes) -> Closing:
    subscription = await _first_message(websocket, times)
    if isinstance(subscription, Closing):
        return subscription
    session = Session(feed, subscription.subscribe)
    hello = await _open(session, subscription.position, feed)
    if isinstance(hello, Closing):
        return hello

    async def send(text: str, entry: Entry | None) -> None:
        del entry
        await websocket.send_text(text)

    async def gone() -> None:
        # Later messages mean nothing; reading them is how a closed connection is noticed.
        while (await websocket.receive())["type"] != "websocket.disconnect":
            pass

    closing = await _serve(session, hello, send, gone, times)
    if closing is None:
        raise WebSocketDisconnect
    return closing


async def _open(session: Session, position: str, feed: Feed) -> Hello | Closing:
    if not feed.hub.is_open:
        return Closing(_TRY_LATER, "the feed has not begun yet, try again")
    try:
        return await session.open(position)
    except ValueError as error:
        return Closing(_BAD_REQUEST, _short(str(error)))
    except DependencyDownError:
        return Closing(_TRY_LATER, "the broker is away, try again")


async def _first_message(websocket: WebSocket, times: FeedTimes) -> Subscription | Closing:
    try:
        async with asyncio.timeout(times.subscribe_within_s):
            text = await websocket.receive_text()
        return Subscription.model_validate_json(text)
    except TimeoutError:
        return Closing(_BAD_REQUEST, f"subscribe within {times.subscribe_within_s:g} s")
    except KeyError:
        return Closing(_BAD_REQUEST, "send text, not bytes")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return Closing(_BAD_REQUEST, _short(f"{place}: {first['msg']}".removeprefix(": ")))


class EventStream(Response):
    """Server-sent events, ended at once when the client is gone or slow."""

    media_type = "text/event-stream"

    def __init__(self, session: Session, hello: Hello, times: FeedTimes) -> None:
        """Hold the session until the server calls."""
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._session = session
        self._hello = hello
        self._times = times

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request; returning closes the connection."""
        del scope
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)

        async def out(text: str, entry: Entry | None) -> None:
            if entry is None:
                body = f"id: {self._session.position}\ndata: {text}\n\n".encode()
            else:
                body = entry.sse
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        closing = await _serve(self._session, self._hello, out, gone, self._times)
        if closing is None:
            return
        told = {"type": "closed", "code": closing.code, "reason": closing.reason}
        body = f"data: {json.dumps(told)}\n\n".encode()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_CLOSING_S):
                await send({"type": "http.response.body", "body": body, "more_body": False})


async def _serve(
    session: Session,
    hello: Hello,
    out: Out,
    gone: Callable[[], Awaitable[None]],
    times: FeedTimes,
) -> Closing | None:
    """Pump until the client is gone (None) or the feed has a reason to end."""
    pump = asyncio.ensure_future(_pump(session, hello, out, times))
    watch = asyncio.ensure_future(gone())
    # A pump that hangs in a full socket cannot see that its client is slow, so another looks.
    slow = asyncio.ensure_future(session.slow.wait())
    try:
        await asyncio.wait((pump, watch, slow), return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            return None
        if not pump.done():
            return _slow(session)
        return _why_ended(pump, session)
    finally:
        for task in (pump, watch, slow):
            task.cancel()
        await asyncio.gather(pump, watch, slow, return_exceptions=True)
        await session.close()


def _why_ended(pump: asyncio.Future[None], session: Session) -> Closing | None:
    error = pump.exception()
    if isinstance(error, SlowClientError):
        return _slow(session)
    if isinstance(error, FeedResetError | StalledError):
        return Closing(_RESTART, "the feed began anew, subscribe again")
    if isinstance(error, DependencyDownError):
        return Closing(_TRY_LATER, "the broker is away, try again")
    if isinstance(error, OSError | WebSocketDisconnect | RuntimeError):
        return None  # the connection ended under a send
    assert error is not None
    raise error


async def _pump(session: Session, hello: Hello, out: Out, times: FeedTimes) -> None:
    loop = asyncio.get_running_loop()
    await out(json.dumps(hello.as_json()), None)
    beat_at = loop.time() + times.heartbeat_s
    timer = loop.call_at(beat_at, session.news.set)
    try:
        while True:
            for entry in await session.next():
                await out(entry.text, entry)
                session.note_sent(entry)
            if loop.time() >= beat_at:
                await out(json.dumps(session.heartbeat()), None)
                beat_at = loop.time() + times.heartbeat_s
                timer = loop.call_at(beat_at, session.news.set)
    finally:
        timer.cancel()


def _slow(session: Session) -> Closing:
    exact = f"slow, resume from {session.resume_from}"
    if len(exact) <= _REASON_BYTES:
        return Closing(_SLOW, exact)
    return Closing(_SLOW, "slow, resume from the last position you received")


def _short(reason: str) -> str:
    return reason.encode()[:_REASON_BYTES].decode("utf-8", "ignore")
